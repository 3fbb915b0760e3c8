use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::thread::JoinHandle;

use viv_devices::layout;
use viv_engine::{Engine, EngineKind};

use super::*;
use crate::channel::{self, LineReader};
use crate::config::tests::plain;
use crate::config::{EngineChoice, Fds, FileSource, MachineConfig, Stream, WatchdogAction};
use crate::engine::{ChoiceError, Decision};
use crate::machine::tests::bench::kernel;
use crate::machine::tests::fake::{FAULT, FakeEngine, HALT, OUT};
use crate::protocol::{
    BalloonStatus, MemoryStatus, Reply, Request, RequestLine, Resources, Status, VERSION, VcpuStatus,
};

/// A VM process as a thread, with both ends of its socket.
struct Process {
    socket: UnixStream,
    terminate: UnixStream,
    reader: LineReader,
    next_id: u64,
    thread: JoinHandle<End>,
}

fn fake(_: EngineChoice, _: &[String]) -> Result<(Box<dyn Engine>, Decision), ChoiceError> {
    Ok((
        Box::new(FakeEngine),
        Decision { engine: EngineKind::Soft, reason: "it is a test".into(), warning: None },
    ))
}

impl Process {
    fn start() -> Self {
        let (socket, theirs) = UnixStream::pair().unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
        let (terminate, terminated) = UnixStream::pair().unwrap();
        let thread = std::thread::spawn(move || Server::new(theirs.into(), terminated, &fake, None).run());
        Self { socket, terminate, reader: LineReader::default(), next_id: 0, thread }
    }

    /// Sends a request and gives the reply to it; events that come before are dropped.
    fn ask_with(&mut self, request: Request, fds: &Fds) -> Result<Reply, String> {
        let id = self.next_id;
        self.next_id += 1;
        channel::send_line(self.socket.as_fd(), &RequestLine { id, request }, fds.as_slice()).unwrap();
        loop {
            match self.reader.wait(self.socket.as_fd()).unwrap() {
                Some(Message::Reply { id: of, result }) => {
                    assert_eq!(of, id);
                    return result;
                }
                Some(Message::Event(_)) => {}
                None => panic!("the process has gone"),
            }
        }
    }

    fn ask(&mut self, request: Request) -> Result<Reply, String> {
        self.ask_with(request, &Fds::default())
    }

    /// Creates a machine with this code; its serial line leads to what is returned.
    fn create(&mut self, code: &[u8], change: impl FnOnce(&mut MachineConfig)) -> UnixStream {
        let (serial, theirs) = UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&kernel(code)).unwrap();
        let mut fds = Fds::default();
        let mut config = plain();
        crate::config::tests::kernel(&mut config).kernel = FileSource::Fd(fds.add(file));
        config.serial = Some(Stream { input: None, output: Some(fds.add(theirs)) });
        change(&mut config);
        let create = Request::Create { version: VERSION, config: Box::new(config) };
        assert_eq!(self.ask_with(create, &fds), Ok(Reply::Done));
        serial
    }

    fn event(&mut self) -> Event {
        match self.reader.wait(self.socket.as_fd()).unwrap() {
            Some(Message::Event(event)) => event,
            other => panic!("{other:?} is no event"),
        }
    }

    fn status(&mut self) -> Status {
        match self.ask(Request::Status) {
            Ok(Reply::Status(status)) => status,
            other => panic!("{other:?} is no status"),
        }
    }

    fn resources(&mut self) -> Resources {
        match self.ask(Request::Resources) {
            Ok(Reply::Resources(resources)) => *resources,
            other => panic!("{other:?} are no resources"),
        }
    }

    /// How it ends by itself.
    fn ended(mut self) -> End {
        let end = loop {
            if let Event::Ended(end) = self.event() {
                break end;
            }
        };
        assert_eq!(self.thread.join().unwrap(), end);
        assert_eq!(self.reader.wait::<Message>(self.socket.as_fd()).unwrap(), None, "nothing follows");
        end
    }
}

fn out(port: u16, value: u8) -> [u8; 4] {
    let [low, high] = port.to_le_bytes();
    [OUT, low, high, value]
}

#[test]
fn a_machine_is_driven_to_its_end() {
    let mut process = Process::start();
    let _serial = process.create(&[HALT], |_| ());
    assert_eq!(process.status().state, crate::protocol::MachineState::Created);
    process.ask(Request::Start).unwrap();
    process.ask(Request::Pause).unwrap();
    assert!(process.ask(Request::Pause).unwrap_err().contains("cannot pause a machine that is paused"));
    process.ask(Request::Resume).unwrap();
    process.ask(Request::Reset).unwrap();
    let status = process.status();
    assert_eq!((status.resets, status.engine_reason.as_str()), (1, "it is a test"));
    process.ask(Request::Stop).unwrap();
    assert_eq!(process.ended(), End::Stopped);
}

#[test]
fn a_start_is_told_with_its_engine() {
    let mut process = Process::start();
    let _serial = process.create(&[FAULT], |_| ());
    let start = RequestLine { id: 9, request: Request::Start };
    channel::send_line(process.socket.as_fd(), &start, &[]).unwrap();
    let why = "it is a test".to_owned();
    assert_eq!(process.event(), Event::Started { engine: EngineKind::Soft, why });
    let reply = process.reader.wait::<Message>(process.socket.as_fd()).unwrap();
    assert_eq!(reply, Some(Message::Reply { id: 9, result: Ok(Reply::Done) }));
    assert!(matches!(process.ended(), End::TripleFault(fault) if fault.rip == 0x10_0000));
}

#[test]
fn a_reset_by_the_guest_ends_a_machine_that_must_not_reboot() {
    let code = [out(0xcf9, 6).as_slice(), &[HALT]].concat();
    let mut process = Process::start();
    let _serial = process.create(&code, |config| config.no_reboot = true);
    process.ask(Request::Start).unwrap();
    assert_eq!(process.ended(), End::Reset);
}

#[test]
fn a_reset_by_the_guest_restarts_it() {
    // Resets itself for ever.
    let code = [out(0xcf9, 6).as_slice(), &[HALT]].concat();
    let mut process = Process::start();
    let _serial = process.create(&code, |_| ());
    process.ask(Request::Start).unwrap();
    assert_eq!(process.event(), Event::Restarted);
    assert_eq!(process.event(), Event::Restarted);
    process.ask(Request::Stop).unwrap();
    assert_eq!(process.ended(), End::Stopped);
}

#[test]
fn a_panic_ends_the_machine_once_its_output_is_written() {
    let [low, high] = layout::PANIC_PORT.to_le_bytes();
    let code = [&out(layout::UART0, b'!')[..], &[OUT, low, high, 1, HALT]].concat();
    let mut process = Process::start();
    let mut serial = process.create(&code, |_| ());
    process.ask(Request::Start).unwrap();
    let mut text = String::new();
    serial.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), process.ended()), ("!", End::Panicked));
}

/// Sets the watchdog's timer to its least, and lets it run.
fn watchdog() -> Vec<u8> {
    let registers = [(0x12, 2), (0, 1), (9, 0)];
    [registers.map(|(at, value)| out(layout::TCO.start + at, value)).as_flattened(), &[HALT]].concat()
}

#[test]
fn a_watchdog_that_expires_has_its_action_done() {
    for (action, no_reboot) in [(WatchdogAction::PowerOff, false), (WatchdogAction::Reset, true)] {
        let mut process = Process::start();
        let change = |config: &mut MachineConfig| {
            (config.watchdog, config.no_reboot) = (Some(action), no_reboot);
        };
        let _serial = process.create(&watchdog(), change);
        process.ask(Request::Start).unwrap();
        assert_eq!(process.ended(), End::WatchdogExpired);
    }

    let mut process = Process::start();
    let _serial = process.create(&watchdog(), |config| config.watchdog = Some(WatchdogAction::Reset));
    process.ask(Request::Start).unwrap();
    assert_eq!(process.event(), Event::Restarted);
    process.ask(Request::Stop).unwrap();
    assert_eq!(process.ended(), End::Stopped);

    let mut process = Process::start();
    let _serial = process.create(&watchdog(), |config| config.watchdog = Some(WatchdogAction::Pause));
    process.ask(Request::Start).unwrap();
    assert_eq!(process.event(), Event::WatchdogPaused);
    assert_eq!(process.status().state, crate::protocol::MachineState::Paused);
    process.ask(Request::Resume).unwrap();
    process.ask(Request::Stop).unwrap();
    assert_eq!(process.ended(), End::Stopped);
}

#[test]
fn power_off_waits_for_the_output() {
    // SLP_TYP 5 and SLP_EN are in the high byte of the PM1a control register.
    let power_off = out(layout::PM1_CONTROL + 1, 5 << 2 | 1 << 5);
    let say: Vec<u8> = (0..10_000).flat_map(|_| out(layout::UART0, b'x')).collect();
    let mut process = Process::start();
    let mut serial = process.create(&[&say[..], &power_off, &[HALT]].concat(), |_| ());
    process.ask(Request::Start).unwrap();
    let mut text = String::new();
    serial.read_to_string(&mut text).unwrap();
    assert_eq!(text.len(), 10_000);
    assert_eq!(process.ended(), End::PoweredOff);
}

#[test]
fn a_machine_is_saved_to_a_file_and_restored_from_it() {
    let snapshot = tempfile::tempfile().unwrap();
    let with = || {
        let mut file = snapshot.try_clone().unwrap();
        file.rewind().unwrap();
        Fds::from(vec![file.into()])
    };
    let mut process = Process::start();
    let _serial = process.create(&[HALT], |_| ());
    let refused = process.ask_with(Request::Save, &with()).unwrap_err();
    assert!(refused.contains("cannot save a machine that is created"));
    process.ask(Request::Start).unwrap();
    assert!(process.ask(Request::Save).unwrap_err().contains("did not come with the request"));
    process.ask_with(Request::Save, &with()).unwrap();
    process.ask(Request::Stop).unwrap();
    assert_eq!(process.ended(), End::Stopped);

    let mut process = Process::start();
    let _serial = process.create(&[HALT], |_| ());
    process.ask_with(Request::Restore, &with()).unwrap();
    assert_eq!(process.status().state, crate::protocol::MachineState::Running);
}

#[test]
fn memory_and_processors_change_while_it_runs() {
    const MIB: u64 = 1 << 20;
    let mut process = Process::start();
    let _serial = process.create(&[HALT], |config| {
        (config.max_memory_bytes, config.max_vcpus) = (68 * MIB, 4);
    });
    // Before the start nobody has to agree.
    process.ask(Request::Vcpus { count: 3 }).unwrap();
    process.ask(Request::Start).unwrap();
    process.ask(Request::Balloon { bytes: 8 * MIB + 1 }).unwrap();
    process.ask(Request::Memory { bytes: 66 * MIB }).unwrap();
    process.ask(Request::Vcpus { count: 1 }).unwrap();
    let resources = process.resources();
    let memory = MemoryStatus { actual: 64 * MIB, wanted: 66 * MIB, most: 68 * MIB };
    assert_eq!(resources.memory, memory);
    assert_eq!(resources.vcpus, VcpuStatus { present: 3, wanted: 1, most: 4 });
    let balloon = BalloonStatus { wanted: 8 * MIB, actual: 0, statistics: None };
    assert_eq!(resources.balloon, Some(balloon));
    assert!(resources.present_bytes > 0 && resources.present_bytes < 64 * MIB);

    process.ask(Request::Reset).unwrap();
    assert_eq!(process.resources().vcpus, VcpuStatus { present: 1, wanted: 1, most: 4 });
    for (request, why) in [
        (Request::Balloon { bytes: 64 * MIB }, "take less"),
        (Request::Memory { bytes: 62 * MIB }, "ask for 67108864 to 71303168"),
        (Request::Memory { bytes: 65 * MIB }, "by a multiple of 2 MiB"),
        (Request::Memory { bytes: 70 * MIB }, "give it room for more"),
        (Request::Vcpus { count: 0 }, "ask for 1 to 4"),
        (Request::Vcpus { count: 5 }, "ask for 1 to 4"),
    ] {
        let refused = process.ask(request).unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
}

#[test]
fn a_machine_without_a_balloon_says_so() {
    let mut process = Process::start();
    let _serial = process.create(&[HALT], |config| config.balloon = false);
    assert!(process.ask(Request::Balloon { bytes: 0 }).unwrap_err().contains("no balloon"));
    assert_eq!(process.resources().balloon, None);
}

#[test]
fn a_machine_can_be_looked_at_and_typed_on() {
    let mut picture = tempfile::tempfile().unwrap();
    let with = Fds::from(vec![picture.try_clone().unwrap().into()]);
    let mut process = Process::start();
    let _serial = process.create(&[HALT], |config| config.display = true);
    assert_eq!(process.ask_with(Request::Screenshot, &with), Ok(Reply::Done));
    let mut png = Vec::new();
    picture.rewind().unwrap();
    picture.read_to_end(&mut png).unwrap();
    assert!(png.starts_with(b"\x89PNG"));
    assert_eq!(process.ask(Request::ScreenText), Ok(Reply::Text(None)), "it is blank");
    assert_eq!(process.ask(Request::SendKeys { keys: "a<ctrl-c>".into() }), Ok(Reply::Done));
    let refused = process.ask(Request::SendKeys { keys: "<hello>".into() }).unwrap_err();
    assert!(refused.contains("there is no key 'hello'"), "{refused}");
    process.ask(Request::Start).unwrap();
    process.ask(Request::Stop).unwrap();
    assert_eq!(process.ended(), End::Stopped);
}

#[test]
fn a_machine_without_a_display_says_so() {
    let mut process = Process::start();
    let _serial = process.create(&[HALT], |_| ());
    for request in [Request::ScreenText, Request::SendKeys { keys: "a".into() }] {
        assert!(process.ask(request).unwrap_err().contains("has no display"));
    }
}

#[test]
fn a_machine_leaves_a_picture_at_its_end() {
    let mut picture = tempfile::tempfile().unwrap();
    let mut fds = Fds::default();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&kernel(&[FAULT])).unwrap();
    let mut config = plain();
    crate::config::tests::kernel(&mut config).kernel = FileSource::Fd(fds.add(file));
    config.display = true;
    config.screenshot = Some(fds.add(picture.try_clone().unwrap()));
    let mut process = Process::start();
    let create = Request::Create { version: VERSION, config: Box::new(config) };
    assert_eq!(process.ask_with(create, &fds), Ok(Reply::Done));
    process.ask(Request::Start).unwrap();
    assert!(matches!(process.ended(), End::TripleFault(_)));
    let mut start = Vec::new();
    picture.rewind().unwrap();
    picture.read_to_end(&mut start).unwrap();
    assert!(start.starts_with(b"\x89PNG"));
}

#[test]
fn what_cannot_be_made_ends_the_process_with_the_reason() {
    let mut process = Process::start();
    assert!(process.ask(Request::Start).unwrap_err().contains("no machine yet"));

    let mut process = Process::start();
    let create = Request::Create { version: VERSION, config: Box::new(plain()) };
    let reply = process.ask(create).unwrap_err();
    assert!(reply.contains("cannot open the kernel"));
    assert_eq!(process.ended(), End::Failed { message: reply });

    let mut process = Process::start();
    let create = Request::Create { version: VERSION + 1, config: Box::new(plain()) };
    assert!(process.ask(create).unwrap_err().contains("version"));
    assert!(matches!(process.ended(), End::Failed { .. }));
}

#[test]
fn nonsense_ends_the_process() {
    let mut process = Process::start();
    process.socket.write_all(b"{\"id\":0,\"request\":\"dance\"}\n").unwrap();
    assert!(matches!(process.ended(), End::Failed { message } if message.contains("not understood")));
}

#[test]
fn a_starter_that_dies_takes_the_machine_with_it() {
    let mut process = Process::start();
    let mut serial = process.create(&[HALT], |_| ());
    process.ask(Request::Start).unwrap();
    let Process { socket, thread, .. } = process;
    drop(socket);
    assert_eq!(thread.join().unwrap(), End::Stopped);
    let mut rest = Vec::new();
    serial.read_to_end(&mut rest).unwrap();
}

#[test]
fn the_signal_stops_the_machine() {
    let mut process = Process::start();
    let _serial = process.create(&[HALT], |_| ());
    process.ask(Request::Start).unwrap();
    process.terminate.write_all(b"x").unwrap();
    assert_eq!(process.ended(), End::Stopped);
}
