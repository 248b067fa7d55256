//! nginx as an HTTP/1.1 backend and, on a second port, over TLS with a client certificate required.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use tokio::net::TcpStream;
use tokio::process::Command;

use super::process::{self, Process};
use crate::identity::Identity;

/// nginx, installed.
pub struct Nginx {
    program: PathBuf,
}

/// nginx, serving. Each answer is `200`, with the backend's name as body and as `x-backend`; every method is taken.
pub struct RunningNginx {
    program: PathBuf,
    process: Process,
    identity: Identity,
    ports: [u16; 2],
}

// === impl Nginx ===

impl Nginx {
    /// Nothing, after a line on standard error, where nginx is not at hand.
    pub fn find() -> Option<Self> {
        super::find("nginx", "MESH_INTEROP_NGINX").map(|program| Self { program })
    }

    /// Starts a backend called `name` on two free ports; over TLS it is `identity`, and trusts what `identity` does.
    pub async fn start(&self, name: &str, identity: &Identity) -> RunningNginx {
        self.start_on(super::free_ports(), name, identity).await
    }

    async fn start_on(&self, ports: [u16; 2], name: &str, identity: &Identity) -> RunningNginx {
        let directory = process::directory();
        configure(&directory.path().join("nginx.conf"), ports, name, identity);
        let prefix = directory.path().display().to_string();
        let arguments = ["-p", &prefix, "-c", "nginx.conf", "-e", "error.log"];
        let process = Process::leashed(&self.program, &arguments, directory);
        let mut running = RunningNginx { program: self.program.clone(), process, identity: identity.clone(), ports };
        let addr = running.addr();
        running.process.until(async || TcpStream::connect(addr).await.is_ok()).await;
        running
    }
}

fn configure(path: &std::path::Path, ports: [u16; 2], name: &str, identity: &Identity) {
    let values = [
        ("PORT", &*ports[0].to_string()),
        ("TLS_PORT", &*ports[1].to_string()),
        ("NAME", name),
        ("CERT", &*identity.certificate.to_string_lossy()),
        ("KEY", &*identity.key.to_string_lossy()),
        ("CA", &*identity.roots.to_string_lossy()),
    ];
    fs::write(path, super::fill("nginx/nginx.conf", &values)).expect("the prefix can be written to");
}

// === impl RunningNginx ===

impl RunningNginx {
    /// Where plain HTTP/1.1 is served.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports[0]).into()
    }

    /// Where HTTP/1.1 over TLS is served.
    pub fn tls_addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports[1]).into()
    }

    /// Changes the backend's name by `nginx -s reload`: new workers answer with the new name, old ones finish what they
    /// have and close their idle connections. Returns when nginx has the signal, before new workers are up.
    pub async fn reload(&self, name: &str) {
        let prefix = self.process.path();
        configure(&prefix.join("nginx.conf"), self.ports, name, &self.identity);
        let mut command = Command::new(&self.program);
        command.arg("-p").arg(prefix).args(["-c", "nginx.conf", "-e", "error.log", "-s", "reload"]);
        let status = command.status().await.expect("nginx can be run");
        assert!(status.success(), "nginx -s reload: {status}");
    }

    /// Stops at once, connections with it, and starts again on the same ports.
    pub async fn restart(self, name: &str) -> Self {
        let Self { program, process, identity, ports } = self;
        process.stop().await;
        Nginx { program }.start_on(ports, name, &identity).await
    }
}
