//! Files of the host as memory that outlasts the guest.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use viv_vmm::config::{DiskBus, DiskConfig, DiskFormat, DiskTuning, Overlay, PmemConfig};

use crate::debian::viv;
use crate::ended::{feed, start, wait};
use crate::resources::Guest;

/// Does what comes by the serial line, with the image's disk to be entered and the drivers loaded, of which a light guest's
/// agent takes care.
const SCRIPT: &str = "
mkdir -p /root /tmp; mount -o ro /dev/vda /root
for driver in libnvdimm nd_virtio virtio_pmem nd_btt nd_pmem; do
    insmod /root/lib/modules/$(uname -r)/kernel/drivers/nvdimm/$driver.ko
done
for file_system in proc sys dev; do mount --bind /$file_system /root/$file_system; done
stty -echo; echo @@ready
while read -r line; do eval \"$line\" 2>/dev/errors; done
";

/// Bytes of each file.
const SIZE: u64 = 32 << 20;
/// Where the guest mounts them: on the image's own directory, which is there.
const MOUNT: &str = "mount -t ext4 -o dax";

/// A directory with a file that has a file system, in which are the program `dax` and a file `old`.
fn directory() -> TempDir {
    let directory = TempDir::new().expect("a directory");
    let tree = directory.path().join("tree");
    fs::create_dir(&tree).expect("a directory");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/programs/dax.c");
    let mut gcc = Command::new("gcc");
    gcc.args(["-O1", "-static", "-o"]).arg(tree.join("dax")).arg(source);
    succeeds(&mut gcc);
    fs::write(tree.join("old"), vec![b'o'; 1 << 20]).expect("written");
    let file = file(&directory, "data.img");
    succeeds(Command::new("mke2fs").args(["-q", "-t", "ext4", "-b", "4096", "-d"]).arg(&tree).arg(&file));
    directory
}

/// A file of [`SIZE`] bytes.
fn file(directory: &TempDir, name: &str) -> PathBuf {
    let path = directory.path().join(name);
    fs::File::create(&path).and_then(|file| file.set_len(SIZE)).expect("sparse");
    path
}

fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A guest with these files, and a disk of random content.
fn boot(directory: &TempDir, files: &[(&Path, bool)]) -> Guest {
    let disk = directory.path().join("disk");
    fs::write(&disk, (0..4 << 20_u32).map(|at| (at / 300) as u8).collect::<Vec<u8>>()).expect("written");
    Guest::boot_script(SCRIPT, |config| {
        let pmem = |&(path, readonly): &(&Path, bool)| PmemConfig { path: path.to_owned(), readonly };
        config.pmems = files.iter().map(pmem).collect();
        config.disks.push(DiskConfig {
            path: disk,
            format: DiskFormat::Raw,
            readonly: false,
            overlay: Overlay::None,
            bus: DiskBus::Virtio,
            tuning: DiskTuning::default(),
        });
    })
}

#[test]
fn a_file_system_in_a_file_is_written_in_place() {
    let directory = directory();
    let (data, raw) = (directory.path().join("data.img"), file(&directory, "raw.img"));
    let mut guest = boot(&directory, &[(&data, false), (&raw, false)]);
    assert_eq!(guest.run("cat /sys/block/pmem*/size"), "65536\n65536".to_owned());
    let mount = format!("{MOUNT} /dev/pmem0 /root/mnt");
    guest.run(&mount);
    let how = guest.run("grep /root/mnt /proc/mounts");
    assert!(how.contains("dax"), "{how}");
    // Code runs there, and devices read and write there.
    assert_eq!(guest.run("/root/mnt/dax in /root/mnt/in /dev/vdb"), "the same");
    assert_eq!(guest.run("/root/mnt/dax out /root/mnt/old /dev/vdb"), "the same");
    guest.run("for n in $(seq 200); do echo $n >/root/mnt/$n; done; sync");
    // As the host sees it, while the guest runs.
    let show = |request: &str| succeeds(Command::new("debugfs").args(["-R", request]).arg(&data));
    assert_eq!(show("cat 150"), "150\n");

    let mut guest = guest.move_by(&directory.path().join("snapshot"));
    assert_eq!(guest.run("cat /root/mnt/199"), "199");
    guest.run("echo moved >/root/mnt/moved; sync");

    guest.reset();
    guest.run(&mount);
    assert_eq!(guest.run("cat /root/mnt/moved; md5sum </root/mnt/in; umount /root/mnt").lines().count(), 2);
    // Another file system, of the guest's own making.
    guest.run("chroot /root /sbin/mke2fs -q -t ext4 -b 4096 /dev/pmem1");
    guest.run(&format!("{MOUNT} /dev/pmem1 /root/mnt; echo new >/root/mnt/new; umount /root/mnt"));
    guest.stop();
    for path in [&data, &raw] {
        succeeds(Command::new("e2fsck").args(["-f", "-n"]).arg(path));
    }
    assert_eq!((show("cat moved"), show("cat 7")), ("moved\n".into(), "7\n".into()));
    assert_eq!(succeeds(Command::new("debugfs").args(["-R", "cat new"]).arg(&raw)), "new\n");
}

#[test]
fn what_is_only_for_reading_stays_as_it_is() {
    let directory = directory();
    let data = directory.path().join("data.img");
    let before = fs::read(&data).expect("there");
    let mut guest = boot(&directory, &[(&data, true)]);
    guest.run("mount -t ext4 -o ro,dax /dev/pmem0 /root/mnt");
    assert_eq!(guest.run("/root/mnt/dax out /root/mnt/old /dev/vdb"), "the same");
    guest.run("umount /root/mnt");
    guest.run("dd if=/dev/zero of=/dev/pmem0 bs=4096 count=64; sync; echo 3 >/proc/sys/vm/drop_caches");
    // The guest finds what is there, too.
    let sum = guest.run("md5sum </dev/pmem0");
    let mut guest = guest.move_by(&directory.path().join("snapshot"));
    assert_eq!(guest.run("md5sum </dev/pmem0"), sum);
    guest.run("mount -t ext4 -o ro,dax /dev/pmem0 /root/mnt");
    guest.stop();
    assert!(fs::read(&data).expect("there") == before);
    assert!(sum.starts_with(succeeds(Command::new("md5sum").arg(&data)).get(..32).expect("a sum")), "{sum}");
}

#[test]
fn guests_from_images_find_files_as_memory() {
    let directory = TempDir::new().expect("a directory");
    let path = file(&directory, "data.img");
    let path = path.to_str().expect("text");
    let script = "blockdev --getsize64 /dev/pmem0 && mke2fs -q -t ext4 -b 4096 /dev/pmem0 && mount -o dax /dev/pmem0 /mnt &&
        echo content >/mnt/file && umount /mnt";
    let said =
        feed(&mut viv(&["run", "--net", "none", "--pmem", path, "debian", "--", "sh", "-c", script]), b"");
    assert_eq!(said.succeeded(), format!("{SIZE}\n"));
    let script = "mount -o ro,dax /dev/pmem0 /mnt && cat /mnt/file";
    let readonly = format!("{path},readonly");
    let said = feed(
        &mut viv(&["run", "--net", "none", "--pmem", &readonly, "debian", "--", "sh", "-c", script]),
        b"",
    );
    assert_eq!(said.succeeded(), "content\n");
}

#[test]
fn a_file_that_is_cut_short_ends_the_machine_with_its_name() {
    let directory = TempDir::new().expect("a directory");
    let path = file(&directory, "data.img");
    let script = "dd if=/dev/pmem0 of=/dev/null bs=1M iflag=direct 2>/dev/null; echo read; read line
        dd if=/dev/pmem0 of=/dev/null bs=1M iflag=direct 2>/dev/null; echo read";
    let option = path.to_str().expect("text");
    let mut child =
        start(&mut viv(&["run", "--net", "none", "--pmem", option, "debian", "--", "sh", "-c", script]));
    let mut said = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    said.read_line(&mut line).expect("a line");
    assert_eq!(line, "read\n");
    fs::File::options().write(true).open(&path).and_then(|file| file.set_len(8 << 20)).expect("cut");
    child.stdin.take().expect("piped").write_all(b"go on\n").expect("written");
    line.clear();
    said.read_to_string(&mut line).expect("text");
    assert_eq!(line, "");
    let ended = wait(child);
    let expected = format!(
        "viv: the VM process died: memory of a file was gone that it used, or the disk had no room for what it wrote there \
         (SIGBUS); --pmem {option} had {SIZE} bytes and was cut to 8388608 while it was the guest's memory\n"
    );
    assert_eq!((ended.status, ended.stderr), (125, expected));
}
