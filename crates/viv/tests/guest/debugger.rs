//! gdb attached to Debian.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::debian::{bash, is_tortured, viv};

/// Addresses of the kernel's functions and data, by name. They are the same in every boot, for nobody moves the kernel.
struct Symbols(String);

impl Symbols {
    fn of_the_guest(names: &[&str]) -> Self {
        let pattern = names.join("|");
        Self(bash(&format!("grep -wE '{pattern}' /proc/kallsyms")).succeeded())
    }

    fn address(&self, name: &str) -> String {
        let is_it = |line: &&str| line.split(' ').nth(2) == Some(name);
        let line = self.0.lines().find(is_it).unwrap_or_else(|| panic!("no {name} in {}", self.0));
        format!("0x{}", line.split(' ').next().expect("an address"))
    }
}

/// A guest that waits for gdb at a socket.
struct Guest {
    directory: TempDir,
    viv: Child,
}

impl Guest {
    fn start(command: &str) -> Self {
        let directory = TempDir::new().expect("a directory");
        let mut run = viv(&["run", "--cpus", "2", "--gdb", "gdb", "debian", "--", "bash", "-c", command]);
        run.current_dir(directory.path()).stdin(Stdio::null());
        let viv = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("viv");
        Self { directory, viv }
    }

    /// What gdb says to each of these commands, and what the guest's monitor and gdb's complaints are.
    fn gdb(&self, commands: &str) -> (Vec<String>, String) {
        let script = self.directory.path().join("script");
        let mut text = String::from("set pagination off\nset confirm off\ntarget remote gdb\n");
        for command in commands.lines().map(str::trim).filter(|command| !command.is_empty()) {
            text.push_str(&format!("echo \\n@@\\n\n{command}\n"));
        }
        fs::write(&script, text).expect("written");
        while !self.directory.path().join("gdb").exists() {
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut gdb = Command::new("gdb");
        gdb.args(["-nx", "-q", "-batch", "-x"]).arg(&script).current_dir(self.directory.path());
        let output = gdb.output().expect("gdb, which cargo xtask test installs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}\n{complaints}");
        (said.split("\n@@\n").skip(1).map(|part| part.trim().to_owned()).collect(), complaints)
    }

    /// What the guest said, after its end, and viv.
    fn ended(self) -> (String, String) {
        let output = self.viv.wait_with_output().expect("ended");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{stderr}");
        assert!(!self.directory.path().join("gdb").exists(), "the socket is left behind");
        (String::from_utf8_lossy(&output.stdout).into_owned(), stderr)
    }
}

#[test]
fn a_kernel_is_debugged_from_its_first_instruction_to_its_end() {
    if is_tortured() {
        return;
    }
    let names = ["start_kernel", "__x64_sys_sethostname", "linux_banner", "jiffies_64"];
    let symbols = Symbols::of_the_guest(&names);
    let [start_kernel, sethostname, banner, jiffies] = names.map(|name| symbols.address(name));
    let banner_phys = u64::from_str_radix(&banner[2..], 16).expect("hex") - 0xffff_ffff_8000_0000;
    let guest = Guest::start("hostname viv-test; nproc");
    let (said, monitor) = guest.gdb(&format!(
        "info threads
        stepi
        break *{start_kernel}
        continue
        x/s {banner}
        monitor phys {banner_phys:#x} 5
        maintenance packet Qqemu.PhyMemMode:1
        x/5c {banner_phys:#x}
        maintenance packet Qqemu.PhyMemMode:0
        p $cr0
        delete
        hbreak *{sethostname}
        continue
        info threads
        p/x $rip == {sethostname}
        delete
        stepi
        p/x $rip > {sethostname} && $rip < {sethostname} + 16
        watch *(long *){jiffies}
        continue
        delete
        set var *(char *){banner} = 'l'
        x/s {banner}
        p $saved = $rax
        set $rax = 0x123456789abcdef
        p/x $rax
        set $rax = $saved
        p $xmm1.v2_int64[0] == $ymm1.v4_int64[0]
        stepi
        detach"
    ));
    let expected = [
        "(vCPU 1, waits to be started, privilege level 0)",
        "in ?? ()",
        "Breakpoint 1 at",
        "hit Breakpoint 1",
        "\"Linux version ",
        "",
        "\"OK\"",
        "76 'L'",
        "\"OK\"",
        " PE ",
        "",
        "breakpoint 2 at",
        "hit Breakpoint 2",
        "Thread 1.2",
        "= 0x1",
        "",
        "in ?? ()",
        "= 0x1",
        "Hardware watchpoint 3",
        "New value = ",
        "",
        "",
        "\"linux version ",
        "=",
        "",
        "0x123456789abcdef",
        "",
        "= 1",
        "in ?? ()",
        "detached",
    ];
    assert!(monitor.contains("4c 69 6e 75 78\n"), "{monitor}");
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (said, expected) in said.iter().zip(expected) {
        assert!(said.contains(expected), "{expected:?} is not in {said:?}");
    }
    let (stdout, stderr) = guest.ended();
    assert_eq!(stdout, "2\n");
    assert!(stderr.contains("the guest waits for gdb: gdb -ex 'target remote /"), "{stderr}");
}

#[test]
fn gdb_is_told_of_the_end() {
    let guest = Guest::start("true");
    let (said, _) = guest.gdb("continue");
    assert!(said[0].contains("exited normally"), "{said:?}");
    guest.ended();
}
