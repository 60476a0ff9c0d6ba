//! Which path means what: requests as plain values.

use http::Method;

/// A container of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPath {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Name of the container.
    pub container: String,
}

/// Which part of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on with what comes.
    pub follow: bool,
    /// The run before this one.
    pub previous: bool,
    /// Each line with its time.
    pub timestamps: bool,
    /// Only the last lines.
    pub tail_lines: Option<u64>,
    /// Only what is not older than this.
    pub since_seconds: Option<u64>,
    /// Only what was written after this (RFC 3339).
    pub since_time: Option<String>,
    /// No more bytes than this.
    pub limit_bytes: Option<u64>,
}

/// Which streams of a process, and for exec what process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamOptions {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Standard input is sent.
    pub stdin: bool,
    /// Standard output is wanted.
    pub stdout: bool,
    /// Standard error is wanted.
    pub stderr: bool,
    /// The process gets a terminal.
    pub tty: bool,
    /// The command is one that the node brings along.
    pub builtin: bool,
}

/// Each port takes two of the 256 channels.
const MAX_PORTS: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    Health,
    Pods,
    Logs(ContainerPath, LogOptions),
    Exec(ContainerPath, StreamOptions),
    Attach(ContainerPath, StreamOptions),
    PortForward {
        namespace: String,
        pod: String,
        ports: Vec<u16>,
    },
    /// A connection to a port of a pod's address, for the API server's proxies.
    Dial {
        namespace: String,
        pod: String,
        port: u16,
    },
    Summary,
    ResourceMetrics,
    ContainerMetrics,
    Metrics,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BadRequest {
    NoSuchPath,
    Parameter(String),
}

pub(super) fn parse(method: &Method, path: &str, query: &str) -> Result<Route, BadRequest> {
    let segments: Vec<String> =
        path.split('/').skip(1).map(decode).collect::<Option<_>>().ok_or(BadRequest::NoSuchPath)?;
    let names: Vec<&str> = segments.iter().map(String::as_str).collect();
    let query = Query::parse(query)?;
    let reads = method == Method::GET || method == Method::HEAD;
    let streams = method == Method::GET || method == Method::POST;
    match names.as_slice() {
        ["healthz"] if reads => Ok(Route::Health),
        ["pods" | "pods/" | "runningpods"] if reads => Ok(Route::Pods),
        ["containerLogs", namespace, pod, container] if reads => {
            Ok(Route::Logs(container_path(namespace, pod, container), query.logs()?))
        }
        // The uid of the pod may stand before the container.
        ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] if streams => {
            let options = query.streams();
            if options.command.is_empty() {
                return Err(BadRequest::Parameter("you must specify at least 1 command".to_owned()));
            }
            some_stream(&options)?;
            Ok(Route::Exec(container_path(namespace, pod, container), options))
        }
        ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] if streams => {
            let options = query.streams();
            some_stream(&options)?;
            Ok(Route::Attach(container_path(namespace, pod, container), options))
        }
        ["portForward", namespace, pod] | ["portForward", namespace, pod, _] if streams => {
            Ok(Route::PortForward {
                namespace: (*namespace).to_owned(),
                pod: (*pod).to_owned(),
                ports: query.ports()?,
            })
        }
        ["dial", namespace, pod, port] if reads => {
            let port = port.parse().ok().filter(|port| *port > 0);
            let port = port.ok_or_else(|| BadRequest::Parameter("the port is none".to_owned()))?;
            Ok(Route::Dial { namespace: (*namespace).to_owned(), pod: (*pod).to_owned(), port })
        }
        ["stats", "summary"] if reads => Ok(Route::Summary),
        ["metrics", "resource"] if reads => Ok(Route::ResourceMetrics),
        ["metrics", "cadvisor"] if reads => Ok(Route::ContainerMetrics),
        ["metrics"] if reads => Ok(Route::Metrics),
        _ => Err(BadRequest::NoSuchPath),
    }
}

fn some_stream(options: &StreamOptions) -> Result<(), BadRequest> {
    if options.stdin || options.stdout || options.stderr {
        Ok(())
    } else {
        Err(BadRequest::Parameter("you must specify at least 1 of stdin, stdout, stderr".to_owned()))
    }
}

fn container_path(namespace: &str, pod: &str, container: &str) -> ContainerPath {
    ContainerPath { namespace: namespace.to_owned(), pod: pod.to_owned(), container: container.to_owned() }
}

struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Result<Self, BadRequest> {
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(&name.replace('+', " "))?, decode(&value.replace('+', " "))?))
        };
        let pairs: Option<Vec<_>> = text.split('&').filter(|pair| !pair.is_empty()).map(pair).collect();
        pairs
            .map(Self)
            .ok_or_else(|| BadRequest::Parameter("the query is not valid percent-encoding".to_owned()))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// kubelets take `1` and `true`; clients of all ages send either.
    fn is_on(&self, name: &str) -> bool {
        matches!(self.get(name), Some("1" | "true"))
    }

    fn number(&self, name: &str) -> Result<Option<u64>, BadRequest> {
        let parse = |text: &str| {
            text.parse().map_err(|_| {
                BadRequest::Parameter(format!("{name} {text:?} is not a number that is 0 or more"))
            })
        };
        self.get(name).filter(|text| !text.is_empty()).map(parse).transpose()
    }

    fn logs(&self) -> Result<LogOptions, BadRequest> {
        Ok(LogOptions {
            follow: self.is_on("follow"),
            previous: self.is_on("previous"),
            timestamps: self.is_on("timestamps"),
            tail_lines: self.number("tailLines")?,
            since_seconds: self.number("sinceSeconds")?,
            since_time: self.get("sinceTime").filter(|text| !text.is_empty()).map(str::to_owned),
            limit_bytes: self.number("limitBytes")?,
        })
    }

    /// Only needed without SPDY, whose streams say their ports. Ports may be repeated, and may be several with commas between them.
    fn ports(&self) -> Result<Vec<u16>, BadRequest> {
        let given = self.0.iter().filter(|(name, _)| name == "port" || name == "ports");
        let texts = given.flat_map(|(_, value)| value.split(',')).filter(|text| !text.is_empty());
        let ports: Result<Vec<u16>, BadRequest> = texts
            .map(|text| match text.parse() {
                Ok(port) if port > 0 => Ok(port),
                _ => Err(BadRequest::Parameter(format!("port {text:?} is not a number from 1 to 65535"))),
            })
            .collect();
        match ports {
            Ok(ports) if ports.len() > MAX_PORTS => Err(BadRequest::Parameter(format!(
                "no more than {MAX_PORTS} ports can be forwarded over one connection"
            ))),
            ports => ports,
        }
    }

    fn streams(&self) -> StreamOptions {
        let tty = self.is_on("tty");
        StreamOptions {
            command: self
                .0
                .iter()
                .filter(|(name, _)| name == "command")
                .map(|(_, value)| value.clone())
                .collect(),
            stdin: self.is_on("stdin") || self.is_on("input"),
            stdout: self.is_on("stdout") || self.is_on("output"),
            // A terminal has one stream for both.
            stderr: (self.is_on("stderr") || self.is_on("error")) && !tty,
            tty,
            builtin: self.is_on("builtin"),
        }
    }
}

/// Percent-decoding; None if it is not valid, or not text.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str, query: &str) -> Result<Route, BadRequest> {
        parse(&Method::GET, path, query)
    }

    #[test]
    fn logs_have_options() {
        let Ok(Route::Logs(path, options)) =
            get("/containerLogs/default/web/a", "follow=true&tailLines=5&sinceTime=2026-01-01T00%3A00%3A00Z")
        else {
            panic!()
        };
        assert_eq!(path, container_path("default", "web", "a"));
        assert!(options.follow && !options.previous);
        assert_eq!(
            (options.tail_lines, options.since_time.as_deref()),
            (Some(5), Some("2026-01-01T00:00:00Z"))
        );
        assert!(matches!(get("/containerLogs/default/web/a", "tailLines=-1"), Err(BadRequest::Parameter(_))));
    }

    #[test]
    fn a_command_keeps_its_arguments_in_order() {
        let Ok(Route::Exec(_, options)) =
            get("/exec/default/web/a", "command=sh&command=-c&command=echo+a%26b&stdout=1&stderr=true&tty=0")
        else {
            panic!()
        };
        assert_eq!(options.command, ["sh", "-c", "echo a&b"]);
        assert!(options.stdout && options.stderr && !options.stdin && !options.tty);
    }

    #[test]
    fn ports_are_forwarded() {
        let Ok(Route::PortForward { pod, ports, .. }) =
            get("/portForward/default/web", "port=80%2C81&ports=443")
        else {
            panic!()
        };
        assert_eq!((pod.as_str(), ports), ("web", vec![80, 81, 443]));
        for wrong in ["port=0", "port=x", "port=70000"] {
            assert!(
                matches!(get("/portForward/default/web", wrong), Err(BadRequest::Parameter(_))),
                "{wrong}"
            );
        }
    }

    #[test]
    fn what_cannot_work_is_refused() {
        assert!(matches!(get("/exec/default/web/a", "stdout=1"), Err(BadRequest::Parameter(_))));
        assert!(matches!(get("/exec/default/web/a", "command=ls"), Err(BadRequest::Parameter(_))));
        assert!(matches!(get("/exec/default/web/a", "command=%zz&stdout=1"), Err(BadRequest::Parameter(_))));
        assert_eq!(get("/etc/passwd", ""), Err(BadRequest::NoSuchPath));
        assert_eq!(parse(&Method::DELETE, "/pods", ""), Err(BadRequest::NoSuchPath));
    }
}
