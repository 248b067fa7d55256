//! What holds of a workload whatever its environment is.

use std::error::Error as _;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::{env, fs, process};

use mesh_xds_client::istio::Workload;

/// Where files would stand below `/`.
static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
    let root = env::temp_dir().join(format!("mesh-fuzz-{}", process::id()));
    fs::create_dir_all(root.join("etc/istio/pod")).expect("a temporary directory can be made");
    root
});

/// Joins a mesh with an environment: a line a variable, and after an empty line what stands in the file of labels.
pub fn check(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    let (variables, labels) = text.split_once("\n\n").unwrap_or((&text, ""));
    fs::write(ROOT.join("etc/istio/pod/labels"), labels).expect("the directory is ours");
    let variables = variables.lines().filter_map(|line| line.split_once('='));
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let workload = match Workload::from_environment(variables, &*ROOT) {
        Ok(workload) => workload,
        Err(error) => return assert!(error.source().is_some(), "it is told which variable or file is to blame"),
    };
    let Ok(node) = workload.node() else { return };
    assert_eq!(node.id.split('~').filter(|part| !part.is_empty()).count(), 4, "{}", node.id);
    assert_eq!(node.to_proto().id, node.id);
    if let Ok(bootstrap) = workload.bootstrap() {
        assert_eq!(bootstrap.node().id, node.id);
        assert!(workload.client().is_ok(), "a bootstrap is all that a client takes");
    }
}
