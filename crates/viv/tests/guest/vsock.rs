//! Sockets between the guest and the host.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;

use crate::debian::{is_tortured, viv};
use crate::ended::{start, wait};

/// The guest's side of a connection: `connect PORT` or `listen PORT` joins it to standard input and output, each direction
/// to its own end; `ask PORT N` says N numbers to the host, each by a connection of its own; `answer PORT N` is asked as
/// often.
const TOOL: &str = r#"
use strict; use Socket;
my ($what, $port, $count) = @ARGV;
sub vm { pack("S S L L x4", 40, 0, $port, $_[0]) }
sub fresh { socket(my $s, 40, SOCK_STREAM, 0) or die "socket: $!"; $s }
sub to_host { my $s = fresh(); connect($s, vm(2)) or die "connect: $!"; $s }
sub listener { my $s = fresh(); bind($s, vm(0xffffffff)) && listen($s, 128) or die "listen: $!"; $| = 1; print STDERR "up\n"; $s }
sub copy { my ($in, $out) = @_; my $data;
    while (my $n = sysread($in, $data, 65536)) {
        for (my $at = 0; $at < $n;) { $at += syswrite($out, $data, $n - $at, $at) // die "write: $!"; }
    } }
if ($what eq "ask") {
    for (1..$count) {
        my $s = to_host(); syswrite($s, "$_\n"); shutdown($s, 1);
        my $said = join "", <$s>; $said eq "re $_\n" or die "$_: $said";
    }
} elsif ($what eq "answer") {
    my $l = listener();
    for (1..$count) {
        accept(my $s, $l) or die "accept: $!"; my $said = <$s>; syswrite($s, "re $said");
    }
} else {
    my $s; $s = to_host() if $what eq "connect";
    if ($what eq "listen") { my $l = listener(); accept($s, $l) or die "accept: $!"; }
    my $child = fork;
    if (!$child) { copy($s, \*STDOUT); exit 0 }
    copy(\*STDIN, $s); shutdown($s, 1); waitpid $child, 0;
}
"#;

fn megabytes() -> u32 {
    if is_tortured() { 1 } else { 100 }
}

fn connections() -> u32 {
    if is_tortured() { 20 } else { 1000 }
}

fn data() -> Vec<u8> {
    (0..megabytes() << 18).flat_map(|n: u32| n.wrapping_mul(0x9e37_79b1).to_le_bytes()).collect()
}

/// A guest that runs a script, in which `tool` is [`TOOL`].
fn guest(path: &Path, script: &str) -> Child {
    let vsock = path.to_str().expect("text");
    let script = format!("set -e; tool() {{ perl -e \"$TOOL\" -- \"$@\"; }}\nTOOL='{TOOL}'\n{script}");
    start(&mut viv(&["run", "--vsock", vsock, "--net", "none", "debian", "--", "bash", "-c", &script]))
}

fn socket_of(path: &Path, port: u32) -> PathBuf {
    format!("{}_{port}", path.display()).into()
}

/// Waits until the guest says that it listens.
fn listens(child: &mut Child) -> BufReader<std::process::ChildStderr> {
    let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    stderr.read_line(&mut line).expect("text");
    assert_eq!(line, "up\n");
    stderr
}

/// A connection to a port of the guest's.
fn connect(path: &Path, port: u32) -> UnixStream {
    let mut stream = UnixStream::connect(path).expect("it is there");
    writeln!(stream, "CONNECT {port}").expect("written");
    let mut said = Vec::new();
    while said.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        said.extend(byte);
    }
    assert!(said.starts_with(b"OK "), "{}", String::from_utf8_lossy(&said));
    stream
}

#[test]
fn a_hundred_megabytes_go_each_way_over_connections_of_either_side() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("v.sock");
    let listener = UnixListener::bind(socket_of(&path, 5000)).expect("a socket");
    let data = data();
    let server = thread::spawn({
        let data = data.clone();
        move || {
            let (mut stream, _) = listener.accept().expect("a guest");
            // It has nothing to say, and says so at once; what it is sent comes all the same.
            assert_eq!(stream.read(&mut [0]).expect("read"), 0);
            stream.write_all(&data).expect("sent");
            drop(stream);
            let (mut back, _) = listener.accept().expect("a guest");
            let mut received = Vec::new();
            back.read_to_end(&mut received).expect("received");
            received
        }
    });
    let mut child = guest(
        &path,
        "tool connect 5000 </dev/null >/root/data; tool connect 5000 </root/data; tool listen 6000 </root/data >/root/copy
         cmp /root/data /root/copy && echo same",
    );
    let rest = listens(&mut child);
    let stream = connect(&path, 6000);
    let writer = thread::spawn({
        let (mut stream, data) = (stream.try_clone().expect("a socket"), data.clone());
        move || {
            stream.write_all(&data).expect("sent");
            stream.shutdown(Shutdown::Write).expect("shut down");
        }
    });
    let mut received = Vec::new();
    { &stream }.read_to_end(&mut received).expect("received");
    writer.join().expect("sent");
    assert!(received == data, "{} bytes of {}", received.len(), data.len());
    assert!(server.join().expect("served") == data);
    drop(rest);
    assert_eq!(wait(child).text(), "same\n");
    assert!(!path.exists(), "it is removed at the end");
}

#[test]
fn a_thousand_short_connections_of_either_side() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("v.sock");
    let listener = UnixListener::bind(socket_of(&path, 5001)).expect("a socket");
    let count = connections();
    let server = thread::spawn(move || {
        for _ in 0..count {
            let (mut stream, _) = listener.accept().expect("a guest");
            let mut said = String::new();
            stream.read_to_string(&mut said).expect("text");
            write!(stream, "re {said}").expect("written");
        }
    });
    let mut child = guest(
        &path,
        &format!(
            "if tool connect 7 2>/dev/null; then echo connected; else echo refused; fi; tool ask 5001 {count}; tool answer 6001 {count}; echo done"
        ),
    );
    let rest = listens(&mut child);
    server.join().expect("served");
    // What nobody listens at, and what is no greeting, is closed.
    for greeting in ["CONNECT 7777\n", "HELLO\n"] {
        let mut stream = UnixStream::connect(&path).expect("it is there");
        stream.write_all(greeting.as_bytes()).expect("written");
        let mut said = String::new();
        // Reset, if not all of it is read.
        let _ = stream.read_to_string(&mut said);
        assert_eq!(said, "");
    }
    for number in 0..count {
        let mut stream = connect(&path, 6001);
        writeln!(stream, "{number}").expect("written");
        let mut said = String::new();
        stream.read_to_string(&mut said).expect("text");
        assert_eq!(said, format!("re {number}\n"));
    }
    drop(rest);
    assert_eq!(wait(child).text(), "refused\ndone\n");
}
