//! A hostile server, in a thread of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use super::*;
use crate::id::Pid;

const LIMIT: Duration = Duration::from_millis(300);

/// One that was accepted.
struct Caller(OwnedFd);

impl Caller {
    fn send(&self, record: &[u8]) {
        // Who is gone is not answered.
        let _ = rustix::net::send(&self.0, record, SendFlags::NOSIGNAL);
    }

    fn greet(&self) {
        self.send(GREETING);
    }

    fn text(&self, text: &str) {
        let mut record = TEXT.to_ne_bytes().to_vec();
        record.extend(text.as_bytes());
        self.send(&record);
    }

    fn end(&self) {
        self.send(&[1, 0, 0, 0, 0, 0, 0, 0]);
    }

    /// The next record; none when the other side is gone.
    fn hear(&self) -> Option<Vec<u8>> {
        let mut space = [0; 4096];
        let (_, length) = rustix::net::recv(&self.0, &mut space, RecvFlags::empty()).ok()?;
        (length > 0).then(|| space[..length].to_vec())
    }

    /// Hears a whole session and checks its form; gives the command.
    fn session(&self) -> Option<String> {
        assert_eq!(self.hear()?, CREDENTIALS);
        assert_eq!(self.hear()?, COMMANDS.to_ne_bytes());
        let length = u64::from_ne_bytes(self.hear()?.try_into().unwrap());
        let line = self.hear()?;
        assert_eq!(line.len() as u64, length);
        assert_eq!(self.hear()?, 0_u64.to_ne_bytes());
        let line = line.strip_suffix(b"\n\0").expect("a line");
        Some(String::from_utf8(line.to_vec()).unwrap())
    }

    /// Waits until the other side is gone.
    fn linger(&self) {
        while self.hear().is_some() {}
    }
}

struct Server {
    folder: tempfile::TempDir,
    thread: Option<JoinHandle<()>>,
    accepted: Arc<AtomicUsize>,
}

impl Server {
    /// Does that with each caller, whose number counts from 0. Ends when `serve` says so.
    fn new(mut serve: impl FnMut(usize, Caller) -> bool + Send + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = listen(&folder.path().join("control"), 64);
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let thread = std::thread::spawn(move || {
            while let Ok(caller) = rustix::net::accept(&listener) {
                let number = count.fetch_add(1, Ordering::SeqCst);
                if !serve(number, Caller(caller)) {
                    return;
                }
            }
        });
        Self { folder, thread: Some(thread), accepted }
    }

    /// The same, always.
    fn each(mut serve: impl FnMut(Caller) + Send + 'static) -> Self {
        let mut ended = false;
        Self::new(move |_, caller| {
            // The last caller, at the end of the test, says nothing.
            ended |= caller_is_last(&caller);
            if !ended {
                serve(caller);
            }
            !ended
        })
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("control")
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

/// The end of a test connects from a socket with a name.
fn caller_is_last(caller: &Caller) -> bool {
    let name = rustix::net::getpeername(&caller.0).unwrap().unwrap();
    SocketAddrUnix::try_from(name).is_ok_and(|name| name.path().is_some())
}

impl Drop for Server {
    fn drop(&mut self) {
        let last = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        let name = SocketAddrUnix::new(self.folder.path().join("last")).unwrap();
        let server = SocketAddrUnix::new(self.path()).unwrap();
        rustix::net::bind(&last, &name).unwrap();
        // It may have ended by itself.
        let _ = rustix::net::connect(&last, &server);
        let thread = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            thread.unwrap();
        }
    }
}

fn listen(path: &Path, backlog: i32) -> OwnedFd {
    let flags = SocketFlags::CLOEXEC;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    rustix::net::listen(&socket, backlog).unwrap();
    socket
}

/// Asks, and checks that it ended in time.
fn timed<T>(limit: Duration, call: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let answer = call();
    assert!(start.elapsed() < limit + Duration::from_millis(500), "{:?}", start.elapsed());
    answer
}

fn asked(server: &Server) -> Result<Vec<String>, Failure> {
    timed(LIMIT, || ask(&server.path(), "get_server_list", LIMIT))
}

#[test]
fn an_answer_is_all_records_up_to_the_end() {
    let server = Server::each(|caller| {
        caller.greet();
        let Some(line) = caller.session() else { return };
        assert_eq!(line, "get_server_list");
        for text in ["12\n13", "14\0", ""] {
            caller.text(text);
        }
        caller.end();
    });
    assert_eq!(asked(&server).unwrap(), ["12\n13", "14", ""]);
    let peer = timed(LIMIT, || greet(&server.path(), LIMIT)).unwrap();
    assert_eq!(peer.pid.map(Pid::get), Some(std::process::id()));
    assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
}

#[test]
fn no_answer_is_an_answer() {
    let server = Server::each(|caller| {
        caller.greet();
        caller.session();
        caller.end();
    });
    assert_eq!(asked(&server).unwrap(), [""; 0]);
    assert_eq!(server.accepted(), 1);
}

#[test]
fn silence_is_frozen() {
    let server = Server::each(|caller| caller.linger());
    assert!(matches!(asked(&server), Err(Failure::Frozen)));
    assert!(matches!(timed(LIMIT, || greet(&server.path(), LIMIT)), Err(Failure::Frozen)));
    assert!(matches!(timed(LIMIT, || tell(&server.path(), "quit", LIMIT)), Err(Failure::Frozen)));
}

#[test]
fn silence_after_the_greeting_is_frozen_and_for_the_last_word_no_failure() {
    let server = Server::each(|caller| {
        caller.greet();
        caller.linger();
    });
    assert!(matches!(asked(&server), Err(Failure::Frozen)));
    assert_eq!(timed(LIMIT, || tell(&server.path(), "quit", LIMIT)).unwrap(), [""; 0]);
    timed(LIMIT, || greet(&server.path(), LIMIT)).unwrap();
}

#[test]
fn what_is_not_known_is_a_strange_handshake() {
    type Say = fn(&Caller);
    let garbage: [(&str, Say); 7] = [
        ("another greeting", |caller| caller.send(b"HELLO\0")),
        ("half a greeting", |caller| caller.send(b"OUTB")),
        ("a long greeting", |caller| caller.send(&[b'O'; 4096])),
        ("half a record", |caller| {
            caller.greet();
            caller.session();
            caller.send(&[0, 0]);
        }),
        ("a record of an unknown type", |caller| {
            caller.greet();
            caller.session();
            caller.send(&[7, 0, 0, 0, b'x']);
        }),
        ("a record of 100 kB", |caller| {
            caller.greet();
            caller.session();
            caller.send(&[0; 100_000]);
        }),
        ("an endless answer", |caller| {
            caller.greet();
            caller.session();
            while rustix::net::send(&caller.0, &[0, 0, 0, 0, b'x'], SendFlags::NOSIGNAL).is_ok() {}
        }),
    ];
    for (what, say) in garbage {
        let server = Server::each(move |caller| {
            say(&caller);
            caller.linger();
        });
        let answer = asked(&server);
        assert!(matches!(answer, Err(Failure::Handshake(_))), "{what}: {answer:?}");
        assert_eq!(server.accepted(), 1, "{what} was asked again");
    }
}

#[test]
fn a_record_of_a_mebibyte_is_not_read() {
    let server = Server::each(|caller| {
        let size = 4 << 20;
        // Without CAP_NET_ADMIN less may be had.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size_force(&caller.0, size);
        caller.greet();
        caller.session();
        let sent = rustix::net::send(&caller.0, &vec![0; 1 << 20], SendFlags::NOSIGNAL);
        if sent.is_err() {
            caller.send(&[0; 100_000]);
        }
    });
    assert!(matches!(asked(&server), Err(Failure::Handshake(_))));
}

#[test]
fn an_endless_answer_that_trickles_is_over_at_the_deadline() {
    let server = Server::each(|caller| {
        caller.greet();
        caller.session();
        while rustix::net::send(&caller.0, &[0, 0, 0, 0, b'x'], SendFlags::NOSIGNAL).is_ok() {
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    assert!(matches!(asked(&server), Err(Failure::Frozen)));
}

/// The greeting, and then closed, as by a daemon that is busy: at any point before an answer.
#[test]
fn a_busy_daemon_is_asked_again() {
    for point in 0..4 {
        let server = Server::new(move |number, caller| {
            if caller_is_last(&caller) {
                return false;
            }
            if number < 5 {
                if point > 0 {
                    caller.greet();
                }
                for _ in 1..point {
                    caller.hear();
                }
                return true;
            }
            caller.greet();
            caller.session();
            caller.text("7");
            caller.end();
            true
        });
        assert_eq!(asked(&server).unwrap(), ["7"], "closed at {point}");
        assert_eq!(server.accepted(), 6);
        if point == 0 {
            greet(&server.path(), LIMIT).unwrap();
        }
    }
}

/// It answers and closes before it has read everything: the reset must not hide the answer, or the
/// command would be said twice.
#[test]
fn an_answer_before_a_reset_counts() {
    let server = Server::each(|caller| {
        caller.greet();
        for _ in 0..4 {
            caller.hear();
        }
        caller.text("7");
        caller.end();
    });
    let session = Session::open(&server.path(), Deadline::after(LIMIT)).ok().unwrap();
    assert!(session.greeting().is_ok());
    assert!(session.say(b"ps\n\0", &mut false).is_ok());
    // By now it has closed.
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(session.answer().ok(), Some(vec!["7".to_owned()]));
}

#[test]
fn one_that_is_always_busy_is_frozen() {
    let server = Server::each(|caller| caller.greet());
    assert!(matches!(asked(&server), Err(Failure::Frozen)));
    assert!(server.accepted() > 10, "{} attempts", server.accepted());
}

#[test]
fn death_after_the_command_is_told_and_not_repeated() {
    // In the middle of the answer.
    let server = Server::each(|caller| {
        caller.greet();
        caller.session();
        caller.text("12");
    });
    assert!(matches!(asked(&server), Err(Failure::Died)));
    assert_eq!(server.accepted(), 1);
    // Before the answer, and nobody listens any more.
    for last_word in [false, true] {
        let server = Server::new(|_, caller| {
            caller.greet();
            caller.session();
            false
        });
        let path = server.path();
        if last_word {
            assert_eq!(timed(LIMIT, || tell(&path, "quit", LIMIT)).unwrap(), [""; 0]);
        } else {
            assert!(matches!(timed(LIMIT, || ask(&path, "ps", LIMIT)), Err(Failure::Died)));
        }
    }
}

#[test]
fn nobody_there_is_absent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let absent = |path: &Path| {
        let answer = timed(Duration::ZERO, || ask(path, "ps", LIMIT));
        assert!(matches!(answer, Err(Failure::Absent)), "{answer:?}");
    };
    absent(&path);
    drop(listen(&path, 1));
    absent(&path); // a socket that a daemon left behind
    std::fs::write(folder.path().join("file"), "").unwrap();
    absent(&folder.path().join("file"));
    absent(&folder.path().join("file/control"));
    let stream = folder.path().join("stream");
    let _listener = std::os::unix::net::UnixListener::bind(&stream).unwrap();
    assert!(matches!(ask(&stream, "ps", LIMIT), Err(Failure::Handshake(_))));
    let long = folder.path().join("x".repeat(120));
    let Err(Failure::Other(error)) = ask(&long, "ps", LIMIT) else { panic!("it is too long") };
    assert_eq!(error.code(), ErrorCode::InvalidArgument);
}

#[test]
fn a_full_backlog_is_waited_for_no_longer_than_the_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let listener = listen(&path, 0);
    let address = SocketAddrUnix::new(&path).unwrap();
    let mut waiting = Vec::new();
    loop {
        let flags = SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let socket = socket.unwrap();
        match rustix::net::connect(&socket, &address) {
            Ok(()) => waiting.push(socket),
            Err(errno) => break assert_eq!(errno, Errno::AGAIN),
        }
    }
    assert!(matches!(timed(LIMIT, || ask(&path, "ps", LIMIT)), Err(Failure::Frozen)));
    drop(listener);
}

#[test]
fn what_would_harm_a_daemon_is_not_sent() {
    let server = Server::each(|caller| caller.linger());
    let long = "x".repeat(4000);
    let longest = "x".repeat(MOST_TEXT - 1);
    for line in [long.as_str(), &longest, "get_server_list\nquit", "a\0b", "a\r"] {
        for answer in [ask(&server.path(), line, LIMIT), tell(&server.path(), line, LIMIT)] {
            let Err(Failure::Other(error)) = answer else { panic!("{line:?} was sent") };
            assert_eq!(error.code(), ErrorCode::InvalidArgument);
        }
    }
    assert_eq!(server.accepted(), 0);
}

/// Somebody else's daemon: the socket is made as another user.
#[test]
fn another_users_daemon_is_told_nothing() {
    if !rustix::process::geteuid().is_root() {
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "SKIPPED: another user's daemon: needs root");
        return;
    }
    let (path, folder) = {
        let folder = tempfile::tempdir().unwrap();
        (folder.path().join("control"), folder)
    };
    let listening = path.clone();
    // The credentials of a listener are those of its thread when it began to listen.
    let server = std::thread::spawn(move || {
        let nobody = rustix::process::Uid::from_raw(65_534);
        let socket = {
            let flags = SocketFlags::CLOEXEC;
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .unwrap()
        };
        rustix::net::bind(&socket, &SocketAddrUnix::new(&listening).unwrap()).unwrap();
        // Of this thread alone: the C library is not asked.
        rustix::thread::set_thread_uid(nobody).unwrap();
        rustix::net::listen(&socket, 8).unwrap();
        let caller = Caller(rustix::net::accept(&socket).unwrap());
        caller.greet();
        caller.hear()
    });
    let answer = loop {
        match ask(&path, "get_server_list", LIMIT) {
            // It does not listen yet.
            Err(Failure::Absent) => std::thread::sleep(Duration::from_millis(1)),
            answer => break answer,
        }
    };
    let Err(Failure::Foreign(peer)) = answer else { panic!("{answer:?}") };
    assert_eq!(peer, Peer { pid: Some(Pid::new(std::process::id())), uid: 65_534 });
    assert_eq!(server.join().unwrap(), None, "something was said");
    drop(folder);
}
