//! What the environment says of a workload: the variables and files that Istio's injector gives to pods, and `istioctl x
//! workload entry configure` to machines.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use mesh_core::config::{ConfigError, Locality};
use mesh_http::files;
use serde_json::{Map, Value as Json};

use super::{
    Workload, WorkloadError,
    workload::{ROOT, TOKEN},
};

const LABELS: &str = "/etc/istio/pod/labels";
const ANNOTATIONS: &str = "/etc/istio/pod/annotations";
const NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// Variables, and where files are.
struct Environment<'a> {
    variables: BTreeMap<String, String>,
    root: &'a Path,
}

/// A pod's annotations are 256 KiB at most, and everything else less.
const MAX_SIZE: u64 = 1 << 20;

/// The ports that istiod speaks xDS on.
const ISTIOD: [&str; 2] = [":15010", ":15012"];

// === impl Workload ===

/// From the environment.
impl Workload {
    /// The workload that the environment describes, in the variables and files that Istio's injector and its files for
    /// machines provide. Reads files with blocking I/O, which suits the start of a program.
    ///
    /// | what | from | else |
    /// |---|---|---|
    /// | name | `POD_NAME`, `HOSTNAME` | refused |
    /// | namespace | `POD_NAMESPACE`, the service account's file | refused |
    /// | addresses | `INSTANCE_IPS`, `INSTANCE_IP`, `POD_IP` | refused |
    /// | service account | `SERVICE_ACCOUNT` | not told |
    /// | labels, annotations | `/etc/istio/pod/labels`, `/etc/istio/pod/annotations`, `CANONICAL_SERVICE`, `CANONICAL_REVISION` | none |
    /// | locality | the label `istio-locality` | not told |
    /// | other metadata | `ISTIO_META_*`, `ISTIO_METAJSON_*`, `TRUST_DOMAIN` | |
    /// | istiod | `discoveryAddress` in `PROXY_CONFIG`, `CA_ADDR` with a port of istiod | `istiod.istio-system.svc:15012` |
    /// | its root | `XDS_ROOT_CA`, `CA_ROOT_CA` | `/var/run/secrets/istio/root-cert.pem` |
    /// | the name in its certificate | `ISTIOD_SAN` | the host of its address |
    /// | token for it | `/var/run/secrets/tokens/istio-token`, read when a stream begins | |
    /// | own certificates | `OUTPUT_CERTS`, `PROV_CERT` | none |
    ///
    /// An address of istiod with port 15010 is one for plaintext.
    ///
    /// # Errors
    ///
    /// When something is missing or cannot be read. The error names the variable and says what to do.
    pub fn from_env() -> Result<Self, WorkloadError> {
        let variables = std::env::vars_os();
        let text = variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self::from_environment(text, "/")
    }

    /// The same of other variables, and with files under `root` in place of `/`. Paths in variables are taken as they are.
    ///
    /// # Errors
    ///
    /// As [`from_env`](Self::from_env).
    pub fn from_environment(
        variables: impl IntoIterator<Item = (String, String)>,
        root: impl AsRef<Path>,
    ) -> Result<Self, WorkloadError> {
        read(variables.into_iter().collect(), root.as_ref())
    }
}

fn read(variables: BTreeMap<String, String>, root: &Path) -> Result<Workload, WorkloadError> {
    let environment = Environment { variables, root };
    let mut workload = environment.identified()?;
    for (key, value) in environment.metadata()? {
        workload = workload.metadata(key, value);
    }
    for (key, value) in environment.labels()? {
        if key == "istio-locality" {
            workload = workload.locality(locality(&value));
        }
        workload = workload.label(key, value);
    }
    for (key, value) in environment.downward(ANNOTATIONS)? {
        workload = workload.annotation(key, value);
    }
    environment.joining(workload)
}

// === impl Environment ===

impl Environment<'_> {
    /// Empty is as good as unset, as it is for Istio's agent.
    fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn identified(&self) -> Result<Workload, WorkloadError> {
        let missing = |name: &'static str, remedy: &'static str| ConfigError::new(name, "unset", remedy);
        let name = self.get("POD_NAME").or(self.get("HOSTNAME")).ok_or_else(|| {
            missing(
                "POD_NAME",
                "set it to the name of the pod, by the downward API (metadata.name), or to that of the machine",
            )
        })?;
        let namespace = match self.get("POD_NAMESPACE") {
            Some(namespace) => Some(namespace.to_owned()),
            None => self.file(NAMESPACE)?.map(|text| text.trim().to_owned()),
        };
        let namespace = namespace.filter(|namespace| !namespace.is_empty()).ok_or_else(|| {
            missing("POD_NAMESPACE", "set it to the namespace, in a pod by the downward API (metadata.namespace)")
        })?;
        let mut ips = self.ips()?.into_iter();
        let first = ips.next().ok_or_else(|| {
            missing("INSTANCE_IP", "set it to the address of the workload, in a pod by the downward API (status.podIP)")
        })?;
        let workload = ips.fold(Workload::new(name, namespace, first), Workload::ip);
        Ok(match self.get("SERVICE_ACCOUNT") {
            Some(account) => workload.service_account(account),
            None => workload,
        })
    }

    fn ips(&self) -> Result<Vec<IpAddr>, WorkloadError> {
        let names = ["INSTANCE_IPS", "INSTANCE_IP", "POD_IP"];
        let Some((name, list)) = names.into_iter().find_map(|name| Some((name, self.get(name)?))) else {
            return Ok(Vec::new());
        };
        let parse = |text: &str| text.trim().parse().map_err(|_| ConfigError::new(name, text, "give IP addresses"));
        Ok(list.split(',').map(parse).collect::<Result<_, _>>()?)
    }

    /// `ISTIO_META_X` is the entry `X`; what `ISTIO_METAJSON_X` holds are entries.
    fn metadata(&self) -> Result<Map<String, Json>, WorkloadError> {
        let mut metadata = Map::new();
        for (name, value) in &self.variables {
            if let Some(key) = name.strip_prefix("ISTIO_META_") {
                metadata.insert(key.to_owned(), value.as_str().into());
            } else if name.starts_with("ISTIO_METAJSON_") {
                metadata.extend(object(name, value)?);
            }
        }
        if let Some(domain) = self.get("TRUST_DOMAIN") {
            metadata.entry("TRUST_DOMAIN").or_insert_with(|| domain.into());
        }
        if let Some(config) = self.proxy_config()? {
            metadata.insert("PROXY_CONFIG".to_owned(), config.into());
        }
        Ok(metadata)
    }

    fn proxy_config(&self) -> Result<Option<Map<String, Json>>, WorkloadError> {
        self.get("PROXY_CONFIG").map(|text| object("PROXY_CONFIG", text)).transpose()
    }

    fn labels(&self) -> Result<BTreeMap<String, String>, WorkloadError> {
        let mut labels = self.downward(LABELS)?;
        for (variable, label) in [
            ("CANONICAL_SERVICE", "service.istio.io/canonical-name"),
            ("CANONICAL_REVISION", "service.istio.io/canonical-revision"),
        ] {
            if let Some(value) = self.get(variable) {
                labels.entry(label.to_owned()).or_insert_with(|| value.to_owned());
            }
        }
        Ok(labels)
    }

    fn joining(&self, mut workload: Workload) -> Result<Workload, WorkloadError> {
        let root = self.get("XDS_ROOT_CA").or(self.get("CA_ROOT_CA")).map(PathBuf::from);
        workload = workload.secure(root.unwrap_or_else(|| self.path(ROOT))).token(self.path(TOKEN));
        if let Some(name) = self.get("ISTIOD_SAN") {
            workload = workload.discovery_name(name);
        }
        if let Some(directory) = self.get("OUTPUT_CERTS").or(self.get("PROV_CERT")) {
            workload = workload.certificates(directory);
        }
        let config = self.proxy_config()?.unwrap_or_default();
        let address = match config.get("discoveryAddress") {
            Some(Json::String(address)) => Some(address.as_str()),
            Some(other) => {
                let error = ConfigError::new("PROXY_CONFIG.discoveryAddress", other, "give `host:port`");
                return Err(error.into());
            }
            // The CA may be another's, who knows nothing of xDS: istiod has ports of its own.
            None => self.get("CA_ADDR").filter(|address| ISTIOD.iter().any(|port| address.ends_with(port))),
        };
        Ok(match address {
            Some(address) => workload.discovery_as_said(address),
            None => workload,
        })
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// What stands in a file, if there is one.
    fn file(&self, path: &str) -> Result<Option<String>, WorkloadError> {
        let path = self.path(path);
        let text = |bytes| String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error));
        match files::read(&path, MAX_SIZE).and_then(text) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(WorkloadError::Read { path, source }),
        }
    }

    /// A file of the downward API: a line for each entry, `key="value"`, the value quoted as Go does.
    fn downward(&self, path: &str) -> Result<BTreeMap<String, String>, WorkloadError> {
        let text = self.file(path)?.unwrap_or_default();
        let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
        let entries = lines.map(|(line, number)| {
            let entry = line.split_once('=').and_then(|(key, value)| Some((key.to_owned(), unquoted(value)?)));
            let refuse = || {
                ConfigError::new(format!("{path}:{number}"), line, "write `key=\"value\"`, as the downward API does")
            };
            entry.ok_or_else(refuse)
        });
        Ok(entries.collect::<Result<_, _>>()?)
    }
}

fn object(name: &str, text: &str) -> Result<Map<String, Json>, WorkloadError> {
    let refuse = || ConfigError::new(name, text, "give a JSON object");
    match serde_json::from_str(text) {
        Ok(Json::Object(object)) => Ok(object),
        _ => Err(refuse().into()),
    }
}

/// `region.zone.subzone`, which Kubernetes permits in a label, or with slashes.
fn locality(label: &str) -> Locality {
    let separator = if label.contains('/') { '/' } else { '.' };
    let mut parts = label.splitn(3, separator).map(Into::into);
    let mut next = || parts.next().unwrap_or_default();
    Locality { region: next(), zone: next(), sub_zone: next() }
}

/// A string as Go's `%q` writes it.
fn unquoted(text: &str) -> Option<String> {
    let mut rest = text.trim_end().strip_prefix('"')?.strip_suffix('"')?.chars();
    let mut plain = String::new();
    while let Some(next) = rest.next() {
        if next == '"' {
            return None;
        }
        if next != '\\' {
            plain.push(next);
            continue;
        }
        let by_number = |digits: usize, rest: &mut std::str::Chars<'_>| {
            let digits: String = rest.by_ref().take(digits).collect();
            char::from_u32(u32::from_str_radix(&digits, 16).ok()?)
        };
        plain.push(match rest.next()? {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'v' => '\u{b}',
            'x' => by_number(2, &mut rest)?,
            'u' => by_number(4, &mut rest)?,
            'U' => by_number(8, &mut rest)?,
            same @ ('\\' | '"' | '\'') => same,
            _ => return None,
        });
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_taken_off_as_go_put_them_on() {
        for (quoted, plain) in [
            (r#""web""#, Some("web")),
            (r#""""#, Some("")),
            (r#""a \"b\" \\ c""#, Some("a \"b\" \\ c")),
            (r#""line\n\ttab \u00e9 \U0001f600 \x07""#, Some("line\n\ttab é 😀 \u{7}")),
            ("web", None),
            (r#""a"b""#, None),
            (r#""\q""#, None),
            (r#""\u12""#, Some("\u{12}")),
            (r#""\"#, None),
        ] {
            assert_eq!(unquoted(quoted).as_deref(), plain, "{quoted}");
        }
    }

    #[test]
    fn locality_is_told_by_dots_or_slashes() {
        let of = |label| locality(label).to_string();
        assert_eq!(of("region1.zone1.sub"), "region1/zone1/sub");
        assert_eq!(of("region1/zone.1/sub"), "region1/zone.1/sub");
        assert_eq!(of("region1"), "region1//");
    }
}
