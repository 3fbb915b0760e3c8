//! The root file system: a small Debian, and the few files that make it a guest's.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::files;
use crate::progress::{Progress, Stage};
use crate::tool::{self, Program, Runner};

use super::apt::Apt;
use super::kernel::Kernel;

/// Directory of kernel modules in a root file system.
pub(crate) const MODULES: &str = "usr/lib/modules";

/// What a person expects of a small system, beyond the packages Debian marks as essential.
pub(crate) const PACKAGES: [&str; 12] = [
    "apt",
    "bash",
    "ca-certificates",
    "e2fsprogs",
    "iproute2",
    "kmod",
    "less",
    "login",
    "mount",
    "nano",
    "procps",
    "util-linux",
];

/// What is left out of packages, as minimal images do; licences stay, and directories of manual pages, without which
/// packages that choose among alternatives (Java) cannot be set up.
const LEFT_OUT: [&str; 8] = [
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-include=/usr/share/man/man[1-9]",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/groff/*",
];

/// Lines of output by which a package is fetched, unpacked and set up.
const MILESTONES: [&str; 3] = ["Get:", "Unpacking ", "Setting up "];
/// About how many such lines there are in all.
const EXPECTED: f64 = 360.0;

/// Keys of Debian's archive inside Debian.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Name of the host that a guest is unless its run gives it another.
const HOSTNAME: &str = "debian";
const HOSTS: &str = "127.0.0.1\tlocalhost\n127.0.1.1\tdebian\n\
                     ::1\t\tlocalhost ip6-localhost ip6-loopback\nff02::1\t\tip6-allnodes\nff02::2\t\tip6-allrouters\n";

/// Installs Debian into a directory that does not exist yet: the packages it marks as essential, and these.
///
/// # Errors
/// If `mmdebstrap` fails or is called off.
pub fn install(
    root: &Path,
    suite: &str,
    packages: &[&str],
    apt: &Apt,
    runner: &Runner<'_>,
    progress: &dyn Progress,
) -> Result<(), tool::Error> {
    progress.begin(Stage::Packages);
    let mut program = Program::new("mmdebstrap")
        .args([
            "--mode=root",
            "--format=directory",
            "--variant=minbase",
            "--architectures=amd64",
            "--verbose",
        ])
        .arg(format!("--include={}", packages.join(",")))
        .arg(format!("--aptopt={}", apt.acquire().display()))
        // The directory is thrown away if the host crashes; dpkg need not guard against that.
        .arg("--dpkgopt=force-unsafe-io");
    for option in LEFT_OUT {
        program = program.arg(format!("--dpkgopt={option}"));
    }
    let mut milestones = Milestones::default();
    runner.run(&program.arg(suite).arg(root).arg(apt.sources()), &mut |text| {
        milestones.read(text);
        progress.advance(Stage::Packages, milestones.fraction());
    })?;
    progress.end(Stage::Packages);
    Ok(())
}

/// Moves the kernel's modules into the root file system and makes the lists by which they are found.
///
/// # Errors
/// If `depmod`, which is the guest's own, fails.
pub fn add_modules(root: &Path, kernel: &Kernel, runner: &Runner<'_>) -> Result<(), tool::Error> {
    let modules = root.join(MODULES);
    files::create_dir_all(&modules)?;
    files::rename(&kernel.modules, &modules.join(&kernel.version))?;
    let depmod = Program::new("chroot").arg(root).args(["depmod", "--all", &kernel.version]);
    runner.run(&depmod, &mut |_| {})
}

/// Writes the files that are the guest's own.
///
/// # Errors
/// If one cannot be written.
pub fn configure(root: &Path, apt: &Apt) -> Result<(), files::Error> {
    let etc = root.join("etc");
    files::write(&etc.join("hostname"), format!("{HOSTNAME}\n").as_bytes())?;
    files::write(&etc.join("hosts"), HOSTS.as_bytes())?;
    // The host's name servers mean nothing to the guest.
    files::write(&etc.join("resolv.conf"), b"")?;
    // Made anew by whoever wants one.
    files::write(&etc.join("machine-id"), b"")?;
    unlock_root(&etc.join("shadow"))?;
    // Where older programs look for what is mounted.
    let mounts = etc.join("mtab");
    remove_if_there(&mounts)?;
    symlink("../proc/self/mounts", &mounts).map_err(files::at("creating", &mounts))?;

    // How the host reaches archives is its own affair; which ones it uses is not.
    let apt_directory = etc.join("apt");
    remove_if_there(&apt_directory.join("apt.conf.d/99mmdebstrap"))?;
    remove_if_there(&apt_directory.join("sources.list"))?;
    let parts = apt_directory.join("sources.list.d");
    for file in files::entries(&parts)? {
        remove_if_there(&file)?;
    }
    files::create_dir_all(&parts)?;
    let keyring = |path: &str| {
        let inside = |path: &str| root.join(path.trim_start_matches('/')).exists();
        [path, KEYRING].into_iter().find(|path| inside(path)).map(str::to_owned)
    };
    files::write(&parts.join("debian.sources"), apt.archives().to_stanzas(keyring).as_bytes())?;
    files::write(&apt_directory.join("apt.conf.d/90languages"), b"Acquire::Languages \"none\";\n")
}

/// Lets root log in without a password, from the console alone: there is no other way in.
fn unlock_root(shadow: &Path) -> Result<(), files::Error> {
    let text = files::read_to_string(shadow)?;
    files::write(shadow, without_password(&text).as_bytes())
}

/// Empties the second field of root's line (shadow(5)).
fn without_password(shadow: &str) -> String {
    let line = |line: &str| {
        let mut fields: Vec<&str> = line.split(':').collect();
        if let ["root", password, ..] = fields.as_mut_slice() {
            *password = "";
        }
        fields.join(":") + "\n"
    };
    shadow.lines().map(line).collect()
}

fn remove_if_there(path: &Path) -> Result<(), files::Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(files::at("removing", path)),
    }
}

/// How far an installation has come, by the lines that mark a step.
#[derive(Debug, Default)]
struct Milestones {
    passed: u32,
    unfinished: String,
}

impl Milestones {
    fn read(&mut self, text: &str) {
        for piece in text.split_inclusive('\n') {
            self.unfinished.push_str(piece);
            if self.unfinished.ends_with('\n') {
                let counts = MILESTONES.iter().any(|milestone| self.unfinished.starts_with(milestone));
                self.passed += u32::from(counts);
                self.unfinished.clear();
            }
        }
    }

    fn fraction(&self) -> f64 {
        (f64::from(self.passed) / EXPECTED).min(0.99)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_alone_loses_its_password() {
        let shadow = "root:*:20000:0:99999:7:::\ndaemon:*:20000:0:99999:7:::\n";
        assert_eq!(without_password(shadow), "root::20000:0:99999:7:::\ndaemon:*:20000:0:99999:7:::\n");
    }

    #[test]
    fn milestones_are_counted_however_the_text_is_cut() {
        let mut milestones = Milestones::default();
        for piece in ["Get:1 x\nUnpa", "cking y", " ...\nnothing\nSetting up", " y\nGet:2"] {
            milestones.read(piece);
        }
        assert_eq!(milestones.passed, 3);
        assert!(milestones.fraction() > 0.0);
    }
}
