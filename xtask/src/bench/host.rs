//! What the figures were taken on.

use std::fmt;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// The machine and the programs.
#[derive(Debug)]
pub struct Host {
    processor: String,
    processors: usize,
    used: u32,
    kernel: String,
    qemu: String,
    /// How many processes wanted to run, on average over the last minute before the runs.
    load: String,
}

impl Host {
    /// Reads it. `used` is the processor that the runs are on.
    pub fn read(used: u32) -> Result<Self> {
        let cpuinfo = read("/proc/cpuinfo")?;
        let models = || cpuinfo.lines().filter_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let qemu = Command::new("qemu-system-x86_64").arg("--version").output().context("asking QEMU")?;
        let qemu = String::from_utf8_lossy(&qemu.stdout);
        Ok(Self {
            processor: models().next().map_or("unknown", |(_, model)| model).to_owned(),
            processors: models().count(),
            used,
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            qemu: qemu.lines().next().unwrap_or_default().to_owned(),
            load: read("/proc/loadavg")?.split(' ').next().unwrap_or_default().to_owned(),
        })
    }

    pub fn to_json(&self) -> Value {
        let Self { processor, processors, used, kernel, qemu, load } = self;
        json!({
            "processor": processor, "processors": processors, "processor_used": used,
            "kernel": kernel, "qemu": qemu, "load": load,
        })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, processors, used, kernel, qemu, load } = self;
        write!(
            f,
            "{processor}, {processors} processors, runs of one on number {used}; Linux {kernel}; {qemu}; \
             load {load} before the runs"
        )
    }
}

/// The last of the processors that this process may use: the first is where interrupts go.
pub fn last_processor() -> Result<u32> {
    let status = read("/proc/self/status")?;
    last_of(&status).context("/proc/self/status names no processor that may be used")
}

fn last_of(status: &str) -> Option<u32> {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    list.trim().rsplit([',', '-']).next()?.parse().ok()
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_processor_ends_the_list() {
        assert_eq!(last_of("Name:\tx\nCpus_allowed_list:\t0-1,4-7\n"), Some(7));
        assert_eq!(last_of("Cpus_allowed_list:\t0\n"), Some(0));
        assert_eq!(last_of("Name:\tx\n"), None);
    }
}
