//! Machines that are saved in the middle of a disk's work, and go on elsewhere.

use std::path::Path;
use std::process::Command;

use viv_disk::qcow2::CreateOptions;
use viv_disk::vmdk::Layout;
use viv_disk::{NewDisk, NewFormat};
use viv_vmm::config::{DiskBus, DiskConfig, DiskFormat, DiskTuning, Overlay};

use crate::debian::is_tortured;
use crate::resources::Guest;

/// Two workers on each disk. Each has half of it, in slots: it fills one, the next or any, with what says which it is and in
/// which round, all of it past the guest's cache; then it reads another one again and compares.
const SCRIPT: &str = r#"
mkdir -p /root /tmp; mount -o ro /dev/vda /root
for file_system in proc sys dev; do mount --bind /$file_system /root/$file_system; done
cat >/dev/worker <<'END'
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
disk=/dev/$1; half=$2; name=$1-$2; RANDOM=$((half + 7)); kept=/dev/kept-$name; mkdir $kept
contents() { yes "slot $1 of half $half of $disk in round $2" | head -c 131072; }
place() { echo $(((half * 64 + $1) * 2)); }
check() {
    contents $1 $(cat $kept/$1) >/dev/wanted-$name
    dd if=$disk bs=64k skip=$(place $1) count=2 iflag=direct status=none | cmp -s - /dev/wanted-$name ||
        echo "slot $1 of $name" >>/dev/wrong
}
round=0; slot=0
until [ -e /dev/stop ]; do
    round=$((round + 1))
    if [ $((round % 3)) = 0 ]; then slot=$(((slot + 1) % 64)); else slot=$((RANDOM % 64)); fi
    [ $((round % 8)) = 0 ] && sync=,fsync || sync=
    contents $slot $round |
        dd of=$disk bs=64k seek=$(place $slot) oflag=direct iflag=fullblock conv=notrunc$sync status=none &&
        echo $round >$kept/$slot || echo "round $round of $name" >>/dev/wrong
    other=$((RANDOM % 64)); [ -e $kept/$other ] && check $other
    echo $round >/dev/new-$name; mv /dev/new-$name /dev/rounds-$name
done
for file in $kept/*; do check ${file##*/}; done
sync $disk
echo verified >/dev/verified-$name
END
stty -echo; echo @@ready
while read -r line; do eval "$line" 2>/tmp/errors; done
"#;

/// Bytes of each disk.
const SIZE: u64 = 16 << 20;
/// How often the machine is saved.
const MOVES: u64 = 4;

fn disk(path: &Path, format: DiskFormat) -> DiskConfig {
    DiskConfig {
        path: path.to_owned(),
        format,
        readonly: false,
        overlay: Overlay::None,
        bus: DiskBus::Virtio,
        tuning: DiskTuning::default(),
    }
}

#[test]
fn disks_at_work_are_saved_and_restored() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    let disks = [
        (at("a.img"), DiskFormat::Raw, NewFormat::Raw),
        (at("b.qcow2"), DiskFormat::Qcow2, NewFormat::Qcow2(CreateOptions::default())),
        (at("c.vmdk"), DiskFormat::Vmdk, NewFormat::Vmdk(Layout::Sparse)),
    ];
    for (path, _, new) in &disks {
        NewDisk::create(path, SIZE, new).and_then(NewDisk::finish).expect("a disk");
    }
    let mut guest = Guest::boot_script(SCRIPT, |config| {
        config.disks.extend(disks.iter().map(|(path, format, _)| disk(path, *format)));
    });
    let workers: Vec<String> =
        ["vdb", "vdc", "vdd"].iter().flat_map(|disk| [0, 1].map(|half| format!("{disk}-{half}"))).collect();
    for worker in &workers {
        let arguments = worker.replace('-', " ");
        guest.run(&format!("chroot /root /bin/bash /dev/worker {arguments} >/dev/null & true"));
    }
    let rounds = if is_tortured() { 1 } else { 5 };
    let mut seen = 0;
    for number in 0..MOVES {
        for worker in &workers {
            let file = format!("/dev/rounds-{worker}");
            guest.until_it_finds(&format!("[ $(cat {file} || echo 0) -ge {} ]", seen + rounds));
        }
        guest = guest.move_by(&at(&format!("snapshot-{number}")));
        let count = guest.run("cat /dev/rounds-vdb-0");
        seen = count.parse().expect("a number");
    }
    guest.run("touch /dev/stop");
    for worker in &workers {
        guest.until_it_finds(&format!("[ -e /dev/verified-{worker} ]"));
    }
    assert_eq!(guest.run("cat /dev/wrong || true"), "");
    guest.stop();
    let check = |path: &Path| {
        let mut viv = Command::new(env!("CARGO_BIN_EXE_viv"));
        let output = viv.args(["disk", "check"]).arg(path).output().expect("viv");
        // What was not flushed at the end may have leaked.
        assert!(matches!(output.status.code(), Some(0 | 3)), "{output:?}");
    };
    check(&disks[1].0);
}
