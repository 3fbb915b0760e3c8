//! Memory and processors that come and go while a guest runs, by the control protocol of its VM process.

use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::path::Path;
use std::time::Duration;

use viv_vmm::MachineConfig;
use viv_vmm::client::{self, Launch, VmProcess};
use viv_vmm::config::{
    Boot, BootProtocol, DiskBus, DiskConfig, DiskFormat, DiskTuning, EngineChoice, Fds, FileSource,
    KernelConfig, Overlay, Stream,
};
use viv_vmm::protocol::{Message, Reply, Request, Resources};

use crate::debian::is_tortured;
use crate::direct::Machine;

const MIB: u64 = 1 << 20;
/// How often something that a guest does in its own time is looked for, and how long between.
const LOOKS: u32 = 900;
const BETWEEN: Duration = Duration::from_millis(200);

/// What does what comes by the serial line, with the drivers that the image's initial RAM disk may lack.
const SCRIPT: &str = "
mkdir -p /root /scratch /tmp; mount -o ro /dev/vda /root
for driver in balloon mem; do
    insmod /root/lib/modules/$(uname -r)/kernel/drivers/virtio/virtio_$driver.ko 2>/dev/null
done
stty -echo; echo @@ready
while read -r line; do eval \"$line\" 2>/tmp/errors; done
";

/// A guest with a shell.
pub struct Guest {
    process: VmProcess,
    input: PipeWriter,
    output: BufReader<PipeReader>,
    /// What it was started from.
    machine: Machine,
    config: MachineConfig,
}

fn config(machine: &Machine) -> MachineConfig {
    MachineConfig {
        name: "resources".into(),
        memory_bytes: 768 * MIB,
        max_memory_bytes: 768 * MIB,
        huge_pages: false,
        balloon: true,
        vcpus: 2,
        max_vcpus: 4,
        engine: EngineChoice::Soft,
        engine_options: Vec::new(),
        boot: Boot::Kernel(KernelConfig {
            kernel: FileSource::Path(machine.kernel().to_owned()),
            initrds: vec![FileSource::Path(machine.path("initrd")).into()],
            cmdline: "console=ttyS0 quiet panic=-1 cryptomgr.notests memhp_default_state=online_movable"
                .into(),
            protocol: BootProtocol::Auto,
        }),
        disks: vec![DiskConfig {
            path: machine.root().to_owned(),
            format: DiskFormat::Raw,
            readonly: true,
            overlay: Overlay::None,
            bus: DiskBus::Virtio,
            tuning: DiskTuning::default(),
        }],
        vhost_user_disks: Vec::new(),
        cdroms: Vec::new(),
        pmems: Vec::new(),
        networks: Vec::new(),
        shares: Vec::new(),
        entropy_bps: None,
        vsock: None,
        serial: None,
        console: None,
        consoles: Vec::new(),
        display: false,
        screenshot: None,
        agent: None,
        no_reboot: true,
        debug_log: None,
        exit_port: false,
        watchdog: None,
        gdb: None,
    }
}

impl Guest {
    /// Boots one to its shell.
    pub fn boot() -> Self {
        Self::boot_with(|_| ())
    }

    /// Boots one with a config that is changed.
    pub fn boot_with(change: impl FnOnce(&mut MachineConfig)) -> Self {
        Self::boot_script(SCRIPT, change)
    }

    /// Boots one whose shell is the end of another script.
    pub fn boot_script(script: &str, change: impl FnOnce(&mut MachineConfig)) -> Self {
        let machine = Machine::new(script);
        let mut config = config(&machine);
        change(&mut config);
        let mut guest = Self::make(machine, config);
        guest.ask(Request::Start);
        guest.heard("@@ready");
        guest
    }

    fn make(machine: Machine, mut config: MachineConfig) -> Self {
        let mut fds = Fds::default();
        let (from_us, input) = io::pipe().expect("a pipe");
        let (output, to_us) = io::pipe().expect("a pipe");
        config.serial = Some(Stream { input: Some(fds.add(from_us)), output: Some(fds.add(to_us)) });
        let launch = Launch { program: env!("CARGO_BIN_EXE_viv").into(), arguments: vec!["vmm".into()] };
        let process = client::spawn(&launch, config.clone(), fds).expect("a VM process");
        Self { process, input, output: BufReader::new(output), machine, config }
    }

    fn try_ask(&mut self, request: Request) -> Result<Reply, String> {
        let sent = self.process.controller().send(request).expect("sent");
        self.reply_to(sent)
    }

    fn reply_to(&mut self, sent: u64) -> Result<Reply, String> {
        let mut events = Vec::new();
        loop {
            match self.process.next_message().expect("a message") {
                Some(Message::Reply { id, result }) if id == sent => return result,
                Some(message) => events.push(message),
                None => panic!("the VM process is gone: {events:?}"),
            }
        }
    }

    fn ask(&mut self, request: Request) -> Reply {
        self.try_ask(request).unwrap_or_else(|why| panic!("{why}"))
    }

    fn resources(&mut self) -> Resources {
        match self.ask(Request::Resources) {
            Reply::Resources(resources) => *resources,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until its resources are as they should be.
    fn until(&mut self, what: &str, is_so: impl Fn(&Resources) -> bool) -> Resources {
        for _ in 0..LOOKS {
            let resources = self.resources();
            if is_so(&resources) {
                return resources;
            }
            std::thread::sleep(BETWEEN);
        }
        panic!("never: {what}: {:?}", self.resources());
    }

    /// Plugs memory in, and waits until the guest has taken it.
    pub fn plug_in(&mut self, bytes: u64) {
        self.ask(Request::Memory { bytes });
        self.until("the memory is plugged in", |now| now.memory.actual == bytes);
    }

    /// What the guest says before a line.
    fn heard(&mut self, end: &str) -> String {
        let mut text = String::new();
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).expect("text") == 0 {
                self.is_gone(&text);
            }
            if line.trim_end().ends_with(end) {
                return text;
            }
            text += &line;
        }
    }

    /// Fails with what the guest and its VM process have said last.
    fn is_gone(&mut self, said: &str) -> ! {
        let messages = std::iter::from_fn(|| self.process.next_message().ok().flatten());
        panic!("the guest is gone: {said}{:?}", messages.collect::<Vec<_>>());
    }

    /// Has the guest's shell do something, which must succeed.
    pub fn run(&mut self, command: &str) -> String {
        writeln!(self.input, "{{ {command}; }} && echo @@done || echo @@failed").expect("written");
        let mut text = String::new();
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).expect("text") == 0 {
                self.is_gone(&text);
            }
            match line.trim_end() {
                line if line.ends_with("@@done") => return text.trim().to_owned(),
                line if line.ends_with("@@failed") => panic!("{command}: {text}"),
                _ => text += &line,
            }
        }
    }

    /// Waits until the guest's shell finds something to be so.
    pub fn until_it_finds(&mut self, condition: &str) {
        self.run(&format!(
            "n=0; until {condition} || [ $n = 300 ]; do sleep 0.2; n=$((n+1)); done; {condition}"
        ));
    }

    fn set_vcpus(&mut self, count: u32) {
        self.ask(Request::Vcpus { count });
    }

    fn processors(&mut self) -> String {
        self.run("nproc")
    }

    /// Takes a processor into use that was plugged in, as systems with udev do by a rule.
    fn take_online(&mut self, cpu: u32) {
        let online = format!("/sys/devices/system/cpu/cpu{cpu}/online");
        self.until_it_finds(&format!("[ -e {online} ]"));
        self.run(&format!("[ $(cat {online}) = 1 ] || echo 1 >{online}"));
    }
}

/// Bytes that the host has memory for, in MiB.
fn present(resources: &Resources) -> u64 {
    resources.present_bytes / MIB
}

fn balloon(resources: &Resources) -> u64 {
    resources.balloon.expect("a balloon").actual / MIB
}

#[test]
fn memory_that_is_free_goes_back_to_the_host() {
    let mut guest = Guest::boot();
    let before = present(&guest.resources());
    guest.run(
        "mount -t tmpfs -o size=400M tmpfs /scratch; dd if=/dev/urandom of=/scratch/file bs=1M count=300",
    );
    let used = present(&guest.resources());
    // Of what was there before, some is free again.
    assert!(used >= before + 200, "{before} MiB before, {used} after 300 MiB were written");
    guest.run("rm /scratch/file");
    let after = guest.until("the memory comes back", |now| present(now) < before + 64);
    eprintln!(
        "{before} MiB before, {used} with 300 MiB of files, {} after they were removed",
        present(&after)
    );
    let statistics = after.balloon.and_then(|balloon| balloon.statistics).expect("statistics");
    assert!(statistics.total.is_some_and(|total| total > 600 * MIB && total < 768 * MIB), "{statistics:?}");
}

#[test]
fn a_balloon_takes_memory_and_gives_it_back() {
    let mut guest = Guest::boot();
    guest.run(
        "mount -t tmpfs -o size=700M tmpfs /scratch; dd if=/dev/urandom of=/scratch/file bs=1M count=64",
    );
    let sum = guest.run("md5sum /scratch/file");
    // Work goes on meanwhile.
    guest.run("(while :; do md5sum /scratch/file; done >/tmp/sums 2>&1) & true");
    for mebibytes in [300, 40, 350] {
        guest.ask(Request::Balloon { bytes: mebibytes * MIB });
        guest.until("the balloon has its size", |now| balloon(now) == mebibytes);
    }
    assert!(guest.try_ask(Request::Balloon { bytes: 768 * MIB }).is_err_and(|why| why.contains("take less")));
    guest.run("kill $!; sleep 1");
    let sums = guest.run("sort -u /tmp/sums");
    assert!(sums.lines().all(|line| sum.starts_with(line)), "{sums} is not {sum}");

    // More is asked for than the guest can spare: it takes back what it needs.
    guest.run("dd if=/dev/urandom of=/scratch/more bs=1M count=450");
    let short = guest.until("the guest has taken memory back", |now| balloon(now) < 350);
    assert_eq!(short.balloon.expect("a balloon").wanted, 350 * MIB);
    assert_eq!(guest.run("md5sum /scratch/file"), sum);
    guest.run("rm /scratch/more");
    guest.ask(Request::Balloon { bytes: 0 });
    guest.until("the balloon is empty", |now| balloon(now) == 0);
}

/// What the guest says that it has, in MiB.
fn total(guest: &mut Guest) -> u64 {
    let text = guest.run("awk '/^MemTotal/ { print $2 }' /proc/meminfo");
    text.parse::<u64>().expect("a number") / 1024
}

#[test]
fn memory_is_plugged_in_and_out() {
    let mut guest = Guest::boot_with(|config| {
        (config.memory_bytes, config.max_memory_bytes) = (256 * MIB, 1024 * MIB);
    });
    let before = total(&mut guest);
    guest.plug_in(1024 * MIB);
    guest.until_it_finds("[ $(awk '/^MemTotal/ { print $2 }' /proc/meminfo) -gt 930000 ]");

    // More than there was fits, and outlasts a move.
    guest.run(
        "mount -t tmpfs -o size=500M tmpfs /scratch; dd if=/dev/urandom of=/scratch/file bs=1M count=400",
    );
    let sum = guest.run("md5sum /scratch/file");
    let directory = tempfile::tempdir().expect("a directory");
    let mut guest = guest.move_by(&directory.path().join("snapshot"));
    assert_eq!(guest.run("md5sum /scratch/file"), sum);
    guest.run("rm /scratch/file");

    assert!(guest.try_ask(Request::Memory { bytes: 255 * MIB }).is_err_and(|why| why.contains("ask for")));
    guest.ask(Request::Memory { bytes: 256 * MIB });
    guest.until("all of it is unplugged", |now| now.memory.actual == 256 * MIB);
    assert!(total(&mut guest) < before + 64);
    guest.until("the host has it back", |now| present(now) < 256);
}

#[test]
fn processors_come_and_go() {
    let mut guest = Guest::boot();
    assert_eq!(guest.processors(), "2");
    guest.set_vcpus(4);
    (2..4).for_each(|cpu| guest.take_online(cpu));
    assert_eq!(guest.processors(), "4");
    for cpu in 0..4 {
        guest.run(&format!("taskset -c {cpu} md5sum /busybox"));
    }
    assert!(guest.try_ask(Request::Vcpus { count: 5 }).is_err_and(|why| why.contains("ask for 1 to 4")));

    // Restored elsewhere it has them still, and what is asked of it then comes true.
    let directory = tempfile::tempdir().expect("a directory");
    let mut guest = guest.move_by(&directory.path().join("snapshot"));
    assert_eq!(guest.processors(), "4");
    guest.set_vcpus(2);
    guest.until("two processors are ejected", |now| now.vcpus.present == 2);
    guest.until_it_finds("[ $(nproc) = 2 ]");
    guest.run("taskset -c 1 md5sum /busybox");

    guest.set_vcpus(3);
    // Linux numbered them in the order in which it found them.
    guest.until_it_finds("ls -d /sys/devices/system/cpu/cpu[23]");
    let number: u32 =
        guest.run("ls -d /sys/devices/system/cpu/cpu[23] | grep -o .$").parse().expect("a number");
    guest.take_online(number);
    assert_eq!(guest.processors(), "3");
    guest.run(&format!("taskset -c {number} md5sum /busybox"));
    let complaints = "dmesg | grep -iE 'lockup|rcu.*stall|BUG:|Oops|tsc.*warp' || true";
    if !is_tortured() {
        assert_eq!(guest.run(complaints), "");
    }
}

impl Guest {
    /// Writes it to a file.
    pub fn save(&mut self, path: &Path) -> Result<Reply, String> {
        let file = std::fs::File::create_new(path).expect("a file");
        let sent = self.process.controller().send_with_file(Request::Save, file).expect("sent");
        self.reply_to(sent)
    }

    /// Resets it, and waits until it is there again.
    pub fn reset(&mut self) {
        self.ask(Request::Reset);
        self.heard("@@ready");
    }

    /// Ends it, and waits until its process has let go of the disks.
    pub fn stop(mut self) -> (Machine, MachineConfig) {
        self.ask(Request::Stop);
        let Self { process, machine, config, .. } = self;
        process.wait().expect("its end");
        (machine, config)
    }

    /// Saves it, and goes on with it in another process.
    pub fn move_by(mut self, path: &Path) -> Self {
        self.ask(Request::Pause);
        self.save(path).expect("saved");
        let (machine, config) = self.stop();
        let mut guest = Self::make(machine, config);
        let file = std::fs::File::open(path).expect("the file");
        let sent = guest.process.controller().send_with_file(Request::Restore, file).expect("sent");
        guest.reply_to(sent).expect("restored");
        guest
    }
}
