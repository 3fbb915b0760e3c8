//! Devices that other processes do the work of, by vhost-user: QEMU's storage daemon, its virtiofsd, a network of the
//! test's own.

mod echo;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::debian::viv;
use crate::ended::{Ended, feed, start, wait};
use crate::resources::Guest;

/// Debian's, in its package qemu-system-common.
const VIRTIOFSD: &str = "/usr/lib/qemu/virtiofsd";

/// A back end, with its files.
struct BackEnd {
    process: Child,
    directory: TempDir,
}

impl BackEnd {
    /// Starts a program that makes a socket.
    fn start(directory: TempDir, command: &mut Command) -> Self {
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut back_end = Self { process: process.expect("a back end"), directory };
        while !back_end.socket().exists() {
            assert_eq!(back_end.process.try_wait().expect("a child"), None, "it has ended: {command:?}");
            thread::sleep(Duration::from_millis(20));
        }
        back_end
    }

    /// A disk of 64 MiB with two queues.
    fn disk() -> Self {
        let directory = TempDir::new().expect("a directory");
        let disk = directory.path().join("disk");
        fs::File::create(&disk).and_then(|file| file.set_len(64 << 20)).expect("sparse");
        let socket = directory.path().join("socket");
        Self::start(
            directory,
            Command::new("qemu-storage-daemon")
                .args(["--blockdev", &format!("driver=file,node-name=f,filename={}", disk.display())])
                .arg("--export")
                .arg(format!(
                    "type=vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path={},writable=on,num-queues=2",
                    socket.display()
                )),
        )
    }

    /// A directory, and whether it can be served: virtiofsd takes root.
    fn share() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("NOT TESTED: virtiofsd takes root");
            return None;
        }
        let directory = TempDir::new().expect("a directory");
        let share = directory.path().join("share");
        fs::create_dir(&share).expect("made");
        let socket = directory.path().join("socket");
        let mut command = Command::new(VIRTIOFSD);
        command.arg(format!("--socket-path={}", socket.display())).args([
            "-o",
            &format!("source={}", share.display()),
            "-o",
            "sandbox=chroot",
        ]);
        Some(Self::start(directory, &mut command))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.path("socket")
    }
}

impl Drop for BackEnd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs a script in Debian.
fn debian(option: &str, value: &str, script: &str) -> Ended {
    feed(&mut viv(&["run", "--cpus", "2", option, value, "debian", "--", "bash", "-c", script]), b"")
}

fn option(socket: &Path) -> String {
    format!("vhost-user={}", socket.display())
}

#[test]
fn a_directory_is_read_and_written() {
    let Some(back_end) = BackEnd::share() else { return };
    let data: Vec<u8> = (0..1_u32 << 20).flat_map(|n| n.wrapping_mul(0x9e37_79b1).to_le_bytes()).collect();
    fs::write(back_end.path("share/data"), &data).expect("written");
    let share = option(&back_end.socket()) + ":/mnt/deep/share";
    let script =
        "cd /mnt/deep/share && cp data copy && mkdir made && mv copy made/ && cmp data made/copy && ls";
    assert_eq!(debian("--share", &share, script).succeeded(), "data\nmade\n");
    assert!(fs::read(back_end.path("share/made/copy")).expect("there") == data);
}

/// The guest's programs come from the share: what its pages held before is not run in their place.
#[test]
fn programs_run_from_a_directory_that_can_only_be_read() {
    let Some(back_end) = BackEnd::share() else { return };
    let share = option(&back_end.socket()) + ":/mnt,ro";
    fs::copy("/bin/busybox", back_end.path("share/busybox")).expect("busybox-static");
    let script = "for n in 1 2 3; do /mnt/busybox echo $n; echo 3 >/proc/sys/vm/drop_caches; done; \
                  touch /mnt/file 2>/dev/null || echo refused";
    assert_eq!(debian("--share", &share, script).succeeded(), "1\n2\n3\nrefused\n");
}

#[test]
fn a_disk_is_written_and_whole() {
    let back_end = BackEnd::disk();
    let script = "export PATH=$PATH:/usr/sbin; ls /sys/block/vdb/mq; mke2fs -q -t ext4 /dev/vdb && mount /dev/vdb /mnt && cd /mnt && \
                  yes 'a line' | head -c 20000000 >large && sync && echo 3 >/proc/sys/vm/drop_caches && \
                  md5sum <large && cd / && umount /mnt && e2fsck -fn /dev/vdb >/dev/null 2>&1 && echo clean";
    let said = debian("--disk", &option(&back_end.socket()), script).succeeded();
    let mut line = b"a line\n".repeat(20_000_000 / 7 + 1);
    line.truncate(20_000_000);
    fs::write(back_end.path("large"), line).expect("written");
    let sum = Command::new("md5sum").stdin(fs::File::open(back_end.path("large")).expect("there")).output();
    let sum = String::from_utf8(sum.expect("md5sum").stdout).expect("text");
    assert_eq!(said, format!("0\n1\n{sum}clean\n"));
    let checked = Command::new("e2fsck").args(["-f", "-n"]).arg(back_end.path("disk")).output();
    assert!(checked.expect("e2fsck").status.success());
}

#[test]
fn a_machine_goes_on_without_a_back_end_that_dies() {
    let mut back_end = BackEnd::disk();
    let disk = option(&back_end.socket());
    let script = "head -c 1000000 /dev/vdb | wc -c; read line; echo alive";
    let mut viv = viv(&["run", "--disk", &disk, "debian", "--", "bash", "-c", script]);
    let mut child = start(&mut viv);
    let mut said = [0; 8];
    std::io::Read::read_exact(child.stdout.as_mut().expect("piped"), &mut said).expect("read");
    assert_eq!(&said, b"1000000\n");
    back_end.process.kill().expect("killed");
    back_end.process.wait().expect("gone");
    std::io::Write::write_all(child.stdin.as_mut().expect("piped"), b"go on\n").expect("written");
    let ended = wait(child);
    assert_eq!((ended.status, ended.text().as_str()), (0, "alive\n"), "{}", ended.stderr);
    assert!(ended.stderr.contains("the back end closed the connection"), "{}", ended.stderr);
}

#[test]
fn a_machine_moves_with_its_disk() {
    let (back_end, directory) = (BackEnd::disk(), TempDir::new().expect("a directory"));
    let socket = back_end.socket();
    let mut guest = Guest::boot_with(|config| config.vhost_user_disks = vec![socket]);
    guest.run("mke2fs -q /dev/vdb && mount -t ext2 /dev/vdb /scratch && dd if=/dev/urandom of=/scratch/a bs=1M count=8 2>/dev/null");
    let before = guest.run("md5sum /scratch/a; echo kept >/scratch/b");
    let mut guest = guest.move_by(&directory.path().join("snapshot"));
    assert_eq!(guest.run("echo 3 >/proc/sys/vm/drop_caches; md5sum /scratch/a"), before);
    assert_eq!(guest.run("umount /scratch; mount -t ext2 /dev/vdb /scratch; cat /scratch/b"), "kept");
}

#[test]
fn a_back_end_reaches_memory_that_was_plugged_in() {
    let back_end = BackEnd::disk();
    let data: Vec<u8> = (0..16_u32 << 20).flat_map(|n| n.wrapping_mul(0x9e37_79b1).to_le_bytes()).collect();
    let disk = fs::OpenOptions::new().write(true).open(back_end.path("disk")).expect("there");
    std::os::unix::fs::FileExt::write_all_at(&disk, &data, 0).expect("written");
    let socket = back_end.socket();
    let mut guest = Guest::boot_with(|config| {
        config.vhost_user_disks = vec![socket];
        (config.memory_bytes, config.max_memory_bytes) = (256 << 20, 1 << 30);
    });
    guest.plug_in(1 << 30);
    // What the guest caches goes where there is most memory.
    let said = guest.run("md5sum </dev/vdb; md5sum </dev/vdb");
    let sum = Command::new("md5sum").stdin(fs::File::open(back_end.path("disk")).expect("there")).output();
    let sum = String::from_utf8(sum.expect("md5sum").stdout).expect("text");
    assert_eq!(said, sum.repeat(2).trim());
}

#[test]
fn a_machine_with_a_directory_is_not_saved_and_goes_on() {
    let Some(back_end) = BackEnd::share() else { return };
    let directory = TempDir::new().expect("a directory");
    let source = viv_vmm::config::ShareSource::VhostUser(back_end.socket());
    let mut guest = Guest::boot_with(|config| {
        config.shares = vec![viv_vmm::config::Share { source, tag: "t".into(), readonly: false }];
    });
    let refused = guest.save(&directory.path().join("snapshot")).expect_err("refused");
    assert!(refused.contains("cannot be saved with the file system t"), "{refused}");
    assert_eq!(guest.run("echo alive"), "alive");
}

#[test]
fn frames_go_to_another_process_and_come_back() {
    let directory = TempDir::new().expect("a directory");
    let socket = directory.path().join("socket");
    echo::serve(&socket);
    let net = option(&socket) + ",mac=02:00:00:00:00:07,address=10.9.0.2/24";
    let script = "cat /sys/class/net/*/address | grep ^02; exec 3<>/dev/udp/10.9.0.1/7; \
                  for n in $(seq 100); do echo frame $n >&3; \
                  line=$(timeout 60 dd bs=99 count=1 status=none <&3) || exit 1; done; echo $line";
    assert_eq!(debian("--net", &net, script).succeeded(), "02:00:00:00:00:07\nframe 100\n");
}

#[test]
fn a_back_end_that_is_none_is_refused_in_a_line() {
    let directory = TempDir::new().expect("a directory");
    let socket = directory.path().join("socket");
    let missing = debian("--disk", &option(&socket), "true");
    assert_eq!(missing.status, 125);
    assert!(
        missing.stderr.contains("back end's socket") && missing.stderr.contains("No such file"),
        "{}",
        missing.stderr
    );
    // An interface is no disk.
    echo::serve(&socket);
    let other = debian("--disk", &option(&socket), "true");
    assert_eq!(other.status, 125);
    assert!(other.stderr.contains("lacks a configuration space"), "{}", other.stderr);
}
