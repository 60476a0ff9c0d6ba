//! `/healthz`, `/livez`, `/readyz`, each with `?verbose`, `?exclude=CHECK` and `/CHECK`.

use std::fmt::Write as _;
use std::time::Duration;

use http::{Response, StatusCode};

use crate::body::Body;
use crate::render;
use crate::request::params::Params;
use crate::server::ApiServer;

/// A store that does not answer within this is not ready.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// The server answers.
    Ping,
    /// The store answers.
    Store,
    /// The caches have been filled, and what every cluster has is there.
    Started,
    /// The server is not about to end.
    Shutdown,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Check::Ping => "ping",
            Check::Store => "etcd",
            Check::Started => "poststarthook/bootstrap",
            Check::Shutdown => "shutdown",
        }
    }
}

const LIVE: &[Check] = &[Check::Ping, Check::Store];
const READY: &[Check] = &[Check::Ping, Check::Store, Check::Started, Check::Shutdown];

impl ApiServer {
    /// The answer at a health path, if it is one.
    pub(crate) async fn health(&self, path: &str, params: &Params) -> Option<Response<Body>> {
        let mut parts = path.trim_matches('/').splitn(2, '/');
        let name = parts.next()?;
        let checks = match name {
            "readyz" => READY,
            "livez" | "healthz" => LIVE,
            _ => return None,
        };
        let only = parts.next();
        let excluded: Vec<&str> = params.all("exclude").collect();
        let chosen = checks.iter().filter(|check| {
            only.is_none_or(|only| only == check.name()) && !excluded.contains(&check.name())
        });
        let mut text = String::new();
        let mut failed = false;
        let mut any = false;
        for check in chosen {
            any = true;
            // Writing to a String does not fail.
            let _ = match self.passes(*check).await {
                true => writeln!(text, "[+]{} ok", check.name()),
                false => {
                    failed = true;
                    writeln!(text, "[-]{} failed: reason withheld", check.name())
                }
            };
        }
        if only.is_some() && !any {
            return None;
        }
        let code = if failed { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
        if failed {
            text.push_str(&format!("{name} check failed\n"));
        } else if params.flag("verbose").ok().flatten() == Some(true) {
            text.push_str(&format!("{name} check passed\n"));
        } else {
            "ok".clone_into(&mut text);
        }
        Some(render::respond(code, "text/plain; charset=utf-8", text.into()))
    }

    async fn passes(&self, check: Check) -> bool {
        match check {
            Check::Ping => true,
            Check::Store => {
                let asked =
                    tokio::time::timeout(STORE_TIMEOUT, self.caches.fresh.newest(&*self.caches.store));
                matches!(asked.await, Ok(Ok(_)))
            }
            Check::Started => self.is_started(),
            Check::Shutdown => !self.stop.is_cancelled(),
        }
    }
}
