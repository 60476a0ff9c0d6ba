//! `coracle check`: what this machine can do, found out by doing it.

use anyhow::bail;
use clap::Args;
use runtime::check::{Outcome, Probe};

use super::say;
use crate::flags::InstanceArgs;
use crate::instance::Instance;
use crate::up;

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    instance: InstanceArgs,
    /// Print the name of this instance's control group and bridge, and nothing else
    #[arg(long)]
    instance_name: bool,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: CheckArgs) -> anyhow::Result<()> {
    let instance = Instance::new(&args.instance)?;
    if args.instance_name {
        return say(instance.kernel_names(None).group);
    }
    let config = up::runtime_config(&instance, &instance.kernel_names(None).group);
    let probes = tokio::task::spawn_blocking(move || runtime::check::run(&config)).await?;
    if args.json {
        let list: Vec<_> = probes
            .iter()
            .map(|probe| serde_json::json!({"name": probe.name, "outcome": word(probe.outcome), "detail": probe.detail, "advice": probe.advice}))
            .collect();
        say(serde_json::to_string_pretty(&list)?)?;
    } else {
        for probe in &probes {
            say(line(probe))?;
        }
    }
    let missing = probes.iter().filter(|probe| probe.outcome == Outcome::Missing).count();
    if missing > 0 {
        bail!("{missing} of {} things that coracle needs are missing", probes.len());
    }
    Ok(())
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok",
        Outcome::Warn => "warning",
        Outcome::Missing => "missing",
    }
}

fn line(probe: &Probe) -> String {
    let mut text = format!("{:<8} {:<22} {}", word(probe.outcome), probe.name, probe.detail);
    if probe.outcome != Outcome::Ok && !probe.advice.is_empty() {
        text.push_str(&format!("\n{:32}→ {}", "", probe.advice));
    }
    text
}
