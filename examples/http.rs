//! An HTTP client without a control plane. You will see requests spread over two backends, one of them die, and the others
//! not notice.
#![allow(clippy::print_stdout, reason = "it is what the program is for")]

use std::error::Error;

use http_body_util::BodyExt;
use mesh_examples::backend::{Backend, Protocol};
use mesh_http::Client;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let one = Backend::start("one", "v1", Protocol::Http, None).await?;
    let two = Backend::start("two", "v1", Protocol::Http, None).await?;

    let client = Client::builder("reviews").endpoints([one.address(), two.address()]).build()?;

    for _ in 0..4 {
        let response = client.get("http://reviews/v1/7").await?;
        let body = response.into_body().collect().await?.to_bytes();
        print!("{}", String::from_utf8_lossy(&body));
    }
    drop(two);
    println!("two is dead");
    for _ in 0..4 {
        let response = client.get("http://reviews/v1/7").await?;
        let body = response.into_body().collect().await?.to_bytes();
        print!("{}", String::from_utf8_lossy(&body));
    }
    Ok(())
}
