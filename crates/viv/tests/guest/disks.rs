//! Disks: what a guest writes is there, and only there.

use std::fs;
use std::process::Command;

use crate::direct::Machine;
use crate::ended::feed;

/// Debian's own tools, from the image's disk, on two other disks.
const SCRIPT: &str = r#"
mount -t ext4 -o ro /dev/vda /root || echo no root
for file_system in proc sys dev; do mount --move /$file_system /root/$file_system; done
cat >/root/dev/script <<'END'
set -e
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
blockdev --getro /dev/vda /dev/vdb /dev/vdc
blockdev --getsize64 /dev/vdb /dev/vdc
if echo changed 2>/dev/null >/dev/vdc; then echo written; else echo refused; fi
mke2fs -q -t ext4 -E discard /dev/vdb
mount -t ext4 -o discard /dev/vdb /mnt
cd /mnt
yes 'a line of the large file' | head -c 100000000 >large
mkdir -p tree/a tree/b
for n in $(seq 300); do echo $n >tree/a/$n; done
sync
rm tree/a/1??
ln tree/a/7 tree/b/hard; ln -s ../a/7 tree/b/soft; mv tree/a/8 tree/b/moved
printf end | dd of=sparse bs=1 seek=50000000 conv=fsync status=none
head -c 20000000 large >gone; sync; rm gone; fstrim .
echo 3 >/proc/sys/vm/drop_caches
wc -c large; tail -n 2 large | head -n 1
cd /; umount /mnt; e2fsck -fn /dev/vdb >/dev/null 2>&1 && echo clean
END
chroot /root /bin/bash /dev/script 2>&1
poweroff -f
"#;

#[test]
fn a_file_system_written_by_a_guest_is_whole() {
    let machine = Machine::new(SCRIPT);
    let (data, locked) = (machine.path("data"), machine.path("locked"));
    fs::File::create(&data).and_then(|file| file.set_len(2 << 30)).expect("sparse");
    fs::write(&locked, vec![0xa5; 1 << 20]).expect("written");
    let said = feed(&mut machine.run(&["--disk", "data", "--disk", "locked,readonly"]), b"").succeeded();
    // The kernel's last word is not the script's.
    let said: String =
        said.lines().filter(|line| !line.starts_with('[')).map(|line| format!("{line}\n")).collect();
    let expected = "1\n0\n1\n2147483648\n1048576\n\
                    refused\n\
                    100000000 large\na line of the large file\nclean\n";
    assert_eq!(said, expected);
    assert!(fs::read(&locked).expect("there") == vec![0xa5; 1 << 20]);

    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).arg(&data).output().expect(program);
        assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
        output.stdout
    };
    run("e2fsck", &["-f", "-n"]);
    let show = |request: &str| run("debugfs", &["-R", request]);
    let line = b"a line of the large file\n";
    let large = show("cat large");
    assert!(large.len() == 100_000_000 && large.chunks(line.len()).all(|chunk| line.starts_with(chunk)));
    assert_eq!((show("cat tree/b/hard"), show("cat tree/b/moved")), (b"7\n".to_vec(), b"8\n".to_vec()));
    let names = String::from_utf8(show("ls -p tree/a")).expect("text").lines().count();
    // Those that are left, the two links to directories, and an empty line.
    assert_eq!(names, 300 - 100 - 1 + 3);
    let sparse = show("cat sparse");
    assert!(
        sparse.len() == 50_000_003
            && sparse.ends_with(b"\0end")
            && !sparse[..50_000_000].iter().any(|&b| b != 0)
    );
    let blocks = fs::metadata(&data).map(|metadata| std::os::unix::fs::MetadataExt::blocks(&metadata));
    // What was discarded was given back.
    assert!(blocks.expect("there") * 512 < 230_000_000);
}

/// Several jobs at once on each of three disks: each writes a part of its own, past the guest's cache, reads it again in
/// smaller pieces, and compares.
const JOBS: &str = r#"
mount -t ext4 -o ro /dev/vda /root || echo no root
for file_system in proc sys dev; do mount --move /$file_system /root/$file_system; done
cat >/root/dev/script <<'END'
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
job() {
    yes "line of job $2 on $1" | head -c 4194304 >/dev/data-$1-$2
    for round in 1 2; do
        dd if=/dev/data-$1-$2 of=/dev/$1 bs=64k seek=$(($2 * 64)) oflag=direct conv=notrunc,fsync status=none
        dd if=/dev/$1 bs=4k skip=$(($2 * 1024)) count=1024 iflag=direct status=none |
            cmp - /dev/data-$1-$2 && echo same
    done
}
for disk in vdb vdc vdd; do
    for number in 0 1 2 3; do job $disk $number & done
done | sort | uniq -c
cat /sys/block/vdb/serial; echo
ls -d /sys/block/vdb/mq/* | wc -l
cat /sys/block/vdb/queue/write_cache /sys/block/vdd/queue/write_cache
END
chroot /root /bin/bash /dev/script 2>&1
poweroff -f
"#;

#[test]
fn several_jobs_write_and_verify_by_each_way_to_a_disk() {
    let machine = Machine::new(JOBS);
    let names = ["ring", "threads", "direct"];
    for name in names {
        fs::write(machine.path(name), vec![0; 16 << 20]).expect("written");
    }
    let ways =
        ["ring,aio=io_uring,queues=2,serial=by-ring", "threads,aio=threads", "direct,cache=writethrough"];
    let options = ways.iter().flat_map(|way| ["--disk", way]).chain(["--cpus", "2"]);
    let ended = feed(&mut machine.run(&options.collect::<Vec<_>>()), b"");
    if ended.stderr.contains("aio=io_uring") {
        eprintln!("NOT TESTED: disks by io_uring: {}", ended.stderr);
        return;
    }
    let said = ended.succeeded();
    let said: Vec<&str> = said.lines().filter(|line| !line.starts_with('[')).map(str::trim).collect();
    assert_eq!(said, ["24 same", "by-ring", "2", "write back", "write through"]);
    for (name, disk) in names.into_iter().zip(["vdb", "vdc", "vdd"]) {
        let content = fs::read(machine.path(name)).expect("there");
        for (number, part) in content.chunks(4 << 20).enumerate() {
            let line = format!("line of job {number} on {disk}\n").into_bytes();
            assert!(part.chunks(line.len()).all(|chunk| line.starts_with(chunk)), "{name}, job {number}");
        }
    }
}
