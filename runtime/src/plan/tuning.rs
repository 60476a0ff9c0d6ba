//! What a process is tuned with: scheduling, I/O priority, CPUs, memory nodes, execution domain, clocks.

use std::collections::HashMap;

use oci_spec::runtime::{
    IOPriorityClass, Linux, LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy,
    LinuxTimeOffset, MemoryPolicyFlagType, MemoryPolicyModeType, Process,
};

use super::step::Step;
use super::{Refusal, refuse};
use crate::spec::WindowSize;

/// More CPUs or memory nodes than any kernel is built for.
const MOST: usize = 8192;

/// Steps for the process section.
///
/// `bound`: the container is bound to some CPUs.
pub(super) fn process(process: &Process, bound: bool) -> Result<Vec<Step>, Refusal> {
    let mut steps = Vec::new();
    if let Some(priority) = process.io_priority() {
        let class = match priority.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        let level = match u32::try_from(priority.priority()) {
            Ok(level) if level < 8 => level,
            _ => return refuse("process.ioPriority.priority", "is not between 0 and 7"),
        };
        steps.push(Step::IoPriority { value: class << 13 | level });
    }
    if let Some(scheduler) = process.scheduler() {
        let policy = match scheduler.policy() {
            LinuxSchedulerPolicy::SchedOther => 0,
            LinuxSchedulerPolicy::SchedFifo => 1,
            LinuxSchedulerPolicy::SchedRr => 2,
            LinuxSchedulerPolicy::SchedBatch => 3,
            LinuxSchedulerPolicy::SchedIso => 4,
            LinuxSchedulerPolicy::SchedIdle => 5,
            LinuxSchedulerPolicy::SchedDeadline => 6,
        };
        let flags = scheduler.flags().iter().flatten().fold(0, |all, flag| {
            all | match flag {
                LinuxSchedulerFlag::SchedResetOnFork => 1,
                LinuxSchedulerFlag::SchedFlagReclaim => 2,
                LinuxSchedulerFlag::SchedFlagDLOverrun => 4,
                LinuxSchedulerFlag::SchedFlagKeepPolicy => 8,
                LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
                LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
                LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
            }
        });
        let Ok(priority) = u32::try_from(scheduler.priority().unwrap_or(0)) else {
            return refuse("process.scheduler.priority", "is negative");
        };
        steps.push(Step::Scheduler {
            policy,
            flags,
            nice: scheduler.nice().unwrap_or(0),
            priority,
            runtime: scheduler.runtime().unwrap_or(0),
            deadline: scheduler.deadline().unwrap_or(0),
            period: scheduler.period().unwrap_or(0),
            bound,
        });
    }
    Ok(steps)
}

/// Steps for the Linux section.
pub(super) fn machine(linux: &Linux) -> Result<Vec<Step>, Refusal> {
    let mut steps = Vec::new();
    if let Some(personality) = linux.personality() {
        if personality.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
            return refuse("linux.personality.flags", "no flag is defined");
        }
        let persona = match personality.domain() {
            LinuxPersonalityDomain::PerLinux => 0,
            LinuxPersonalityDomain::PerLinux32 => 8,
        };
        steps.push(Step::Personality { persona });
    }
    if let Some(policy) = linux.memory_policy() {
        let mode = match policy.mode() {
            MemoryPolicyModeType::MpolDefault => 0,
            MemoryPolicyModeType::MpolPreferred => 1,
            MemoryPolicyModeType::MpolBind => 2,
            MemoryPolicyModeType::MpolInterleave => 3,
            MemoryPolicyModeType::MpolLocal => 4,
            MemoryPolicyModeType::MpolPreferredMany => 5,
            MemoryPolicyModeType::MpolWeightedInterleave => 6,
        };
        let flags = policy.flags().iter().flatten().fold(0, |all, flag| {
            all | match flag {
                MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
                MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
                MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
            }
        });
        let nodes = policy.nodes().as_deref().unwrap_or_default();
        let nodes = cpu_list("linux.memoryPolicy.nodes", nodes).map_err(|refusal| Refusal {
            reason: format!("invalid memory policy node: {}", refusal.reason),
            ..refusal
        })?;
        let count: u32 = nodes.iter().map(|word| word.count_ones()).sum();
        if matches!(policy.mode(), MemoryPolicyModeType::MpolDefault | MemoryPolicyModeType::MpolLocal)
            && count > 0
        {
            return refuse("linux.memoryPolicy", format!("mode requires 0 nodes but got {count}"));
        }
        steps.push(Step::MemoryPolicy { mode: mode | flags, nodes });
    }
    Ok(steps)
}

/// A list such as `0-3,7` as bits.
pub(super) fn cpu_list(field: &str, list: &str) -> Result<Vec<u64>, Refusal> {
    let mut bits: Vec<u64> = Vec::new();
    for range in list.split(',').map(str::trim).filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (Ok(first), Ok(last)) = (first.trim().parse::<usize>(), last.trim().parse::<usize>()) else {
            return refuse(field, format!("{range:?} is not a number or a range"));
        };
        if first > last || last >= MOST {
            return refuse(field, format!("{range:?} is not a range"));
        }
        if bits.len() <= last / 64 {
            bits.resize(last / 64 + 1, 0);
        }
        for number in first..=last {
            bits[number / 64] |= 1 << (number % 64);
        }
    }
    Ok(bits)
}

/// Every CPU that the kernel lets us have: whoever starts a container may be bound to a few, and that is no
/// business of the container's.
pub(super) fn all_cpus() -> Step {
    Step::Affinity { cpus: vec![u64::MAX; MOST / 64] }
}

/// Lines for `timens_offsets`.
pub(super) fn time_offsets(offsets: Option<&HashMap<String, LinuxTimeOffset>>) -> Result<String, Refusal> {
    let mut lines = String::new();
    for (clock, offset) in offsets.into_iter().flatten() {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return refuse("linux.timeOffsets", format!("there is no offset for clock {clock:?}"));
        }
        lines += &format!("{clock} {} {}\n", offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
    }
    Ok(lines)
}

/// First size of a terminal.
pub(super) fn console_size(process: &Process) -> Option<WindowSize> {
    process.console_size().map(|size| WindowSize {
        columns: u16::try_from(size.width()).unwrap_or(u16::MAX),
        rows: u16::try_from(size.height()).unwrap_or(u16::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_become_bits() {
        assert_eq!(cpu_list("f", "0-3,7").unwrap(), [0b1000_1111]);
        assert_eq!(cpu_list("f", "64").unwrap(), [0, 1]);
        assert_eq!(cpu_list("f", "").unwrap(), Vec::<u64>::new());
        for bad in ["x", "3-1", "0-99999999", "-", "1-"] {
            assert!(cpu_list("f", bad).is_err(), "{bad}");
        }
    }
}
