//! Mutual TLS with identities from files. You will see a backend answer when it proves the SPIFFE id that is expected of it, and
//! be refused when another one is.
#![allow(clippy::print_stdout, reason = "it is what the program is for")]

use std::error::Error;

use mesh_core::config::{SpiffeId, Trust, UpstreamTls};
use mesh_examples::{
    backend::{Backend, Protocol},
    certificates::Authority,
};
use mesh_http::{
    Client, Mesh,
    tls::{FileIdentity, Provider},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    // What a certificate agent would have done: files with a certificate, its key, and the roots to trust.
    let authority = Authority::new()?;
    let folder = tempfile::tempdir()?;
    let files = authority.sign("spiffe://shop.example/web", None)?.write_to(folder.path())?;
    let server = authority.sign("spiffe://shop.example/reviews", None)?.server_config(&[b"http/1.1"])?;
    let backend = Backend::start("reviews", "v1", Protocol::Http, Some(server)).await?;

    // The files are watched: what replaces them is used by the next handshake, and nothing is dropped.
    let identity =
        FileIdentity::builder(&files.certificate, &files.key).ca(&files.authority).build(&Provider::aws_lc())?;
    let mesh = Mesh::builder().identity("default", identity).build()?;

    for expected in ["spiffe://shop.example/reviews", "spiffe://shop.example/ratings"] {
        let tls = UpstreamTls::new(Trust::Identity("default".into()))
            .with_identity("default")
            .with_spiffe_id(&SpiffeId::parse(expected)?);
        let client = Client::builder("reviews").mesh(&mesh).endpoints([backend.address()]).tls(tls).build()?;
        match client.get("http://reviews/").await {
            Ok(response) => println!("{expected}: {}", response.status()),
            Err(error) => println!("{expected}: refused, {}", error.reason()),
        }
    }
    Ok(())
}
