//! Writes what the targets start from: `seeds DIRECTORY` makes a directory there for each target.
#![forbid(unsafe_code)]

use std::path::Path;
use std::{env, fs, io};

// Instrumented as everything here is, it needs what the instruments call.
use libfuzzer_sys as _;
use mesh_xds_client::ResourceKind;
use mesh_xds_client::fuzzing::samples;

/// A bootstrap with every field that is read.
const BOOTSTRAP: &str = include_str!("seeds/bootstrap.json");
/// The environment of a workload, with every variable that is read, and its labels.
const WORKLOAD: &str = include_str!("seeds/workload.txt");

fn main() -> io::Result<()> {
    let directory = env::args_os().nth(1).ok_or_else(|| io::Error::other("say where to"))?;
    let directory = Path::new(&directory);
    for (place, (kind, bytes)) in samples().enumerate() {
        write(directory, target_of(kind), &format!("sample-{place}"), &bytes)?;
    }
    write(directory, "workload", "sample", WORKLOAD.as_bytes())?;
    write(directory, "bootstrap", "sample", BOOTSTRAP.as_bytes())?;
    for variant in [0, 1] {
        write(directory, "session", &format!("delivery-{variant}"), &delivery(variant))?;
    }
    Ok(())
}

/// A script of `session`: ask for two clusters, be sent both, accept one, lose the stream.
fn delivery(variant: u8) -> Vec<u8> {
    let ask = [0, 0, 0, 0, 0, 1, 4, 13, 3];
    let respond = [7, 0, 0, 0, 2, 0, 0, 1, 0, 7, 0, 0, 1, 2, 0, 7, 0, 0];
    let end = [11, 2, 13, 3, 15, 100, 6, 0, 15, 100, 4, 13, 3];
    [&[variant][..], &ask, &respond, &end].concat()
}

fn target_of(kind: ResourceKind) -> &'static str {
    match kind {
        ResourceKind::Listener => "listener",
        ResourceKind::RouteConfiguration => "routes",
        ResourceKind::Cluster => "cluster",
        _ => "endpoints",
    }
}

fn write(directory: &Path, target: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let directory = directory.join(target);
    fs::create_dir_all(&directory)?;
    fs::write(directory.join(name), bytes)
}
