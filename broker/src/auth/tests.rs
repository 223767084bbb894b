//! `Access` as its callers see it: files, passwords, reloads.

use std::{fs, future::Future, task::Poll};

use super::*;

const ALICE: &str =
    "$7$101$LR8VLSCyHrIZN23S$Lhn43AZkdB6muK3GUFBgGIiw+hmwD/KRNgGb74iD8Hji8Ndaz0hxwX6CCsyYhNr2fjOza4F3Ox2Sqnw/5Thljw==";
const BOB: &str =
    "$6$EGhR3NUDdrDxxy4c$CVm10osYSMTpHb4lvCG1znCJdRVLrnX0SMuNYhtq3YiY+i3Q0GE1792+n7CDbUjDHZ7noZEpB+/Rq4vSIvYQvQ==";

struct Folder {
    folder: tempfile::TempDir,
    files: Files,
}

impl Folder {
    fn new(passwords: Option<&str>, acl: Option<&str>) -> Folder {
        let folder = tempfile::tempdir().expect("temporary folder");
        let place = |name: &str, text: Option<&str>| {
            let path = folder.path().join(name);
            text.map(|text| fs::write(&path, text).expect("written"))?;
            Some(path)
        };
        let files = Files { password_file: place("passwd", passwords), acl_file: place("acl", acl) };
        Folder { files, folder }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).expect("written");
    }

    fn open(&self) -> Access {
        Access::open(&self.files).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// On a runtime as shards have it.
fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

fn users() -> String {
    format!("alice:{ALICE}\nbob:{BOB}\n")
}

#[test]
fn passwords_prove_names() {
    let folder = Folder::new(Some(&users()), None);
    let access = folder.open();
    run(async {
        for _ in 0..2 {
            let alice = access.authenticate("alice", b"wonderland").await.expect("right");
            assert_eq!(alice.name(), Some("alice"));
            assert!(access.is_current(&alice));
            assert_eq!(access.authenticate("alice", b"builder").await, Err(Refusal::WrongPassword));
            assert_eq!(access.authenticate("nobody", b"wonderland").await, Err(Refusal::WrongPassword));
            assert_eq!(access.authenticate("", b"").await, Err(Refusal::WrongPassword));
        }
        let bob = access.authenticate("bob", b"builder").await.expect("right");
        assert_eq!(bob.name(), Some("bob"));
    });
}

#[test]
fn without_users_or_with_none_every_name_is_refused() {
    for folder in [Folder::new(None, None), Folder::new(Some("# nobody yet\n"), None)] {
        let access = folder.open();
        assert_eq!(access.has_users(), folder.files.password_file.is_some());
        assert_eq!(run(access.authenticate("alice", b"wonderland")), Err(Refusal::WrongPassword));
    }
}

#[test]
fn without_a_list_everything_is_allowed_with_an_empty_one_nothing() {
    let all = |access: &Access| {
        let (who, id) = (Identity::Anonymous, "id");
        [
            access.may_publish(&who, id, "a"),
            access.may_receive(&who, id, "a"),
            access.may_subscribe(&who, id, "#"),
            access.may_read_log(&who, "a"),
            access.may_write_log(&who, "a"),
            access.may_read_any_log(&who),
        ]
    };
    let open = Folder::new(None, None).open();
    assert!(!open.has_acl());
    assert_eq!(all(&open), [true; 6]);
    let closed = Folder::new(None, Some("")).open();
    assert!(closed.has_acl());
    assert_eq!(all(&closed), [false; 6]);
}

#[test]
fn a_name_counts_however_it_was_proved() {
    let access =
        Folder::new(None, Some("user alice\ntopic read a\ntopic write b\nkafka read l\nkafka write m\n")).open();
    let alice = Identity::User(User { name: "alice".into(), proof: Proof::Certificate });
    assert!(access.may_receive(&alice, "id", "a") && !access.may_publish(&alice, "id", "a"));
    assert!(access.may_publish(&alice, "id", "b") && !access.may_receive(&alice, "id", "b"));
    assert!(access.may_subscribe(&alice, "id", "#") && !access.may_subscribe(&alice, "id", "b"));
    assert!(access.may_read_log(&alice, "l") && !access.may_write_log(&alice, "l"));
    assert!(access.may_write_log(&alice, "m") && !access.may_read_log(&alice, "m"));
    assert!(access.may_read_any_log(&alice) && !access.may_read_any_log(&Identity::Anonymous));
    assert!(access.is_current(&alice) && access.is_current(&Identity::Anonymous));
}

#[test]
fn a_reload_changes_users_and_rights_at_once() {
    let folder = Folder::new(Some(&users()), Some("user alice\ntopic a\n"));
    let access = folder.open();
    let (alice, bob) = run(async {
        let alice = access.authenticate("alice", b"wonderland").await.expect("right");
        (alice, access.authenticate("bob", b"builder").await.expect("right"))
    });
    assert!(access.may_publish(&alice, "id", "a"));
    let before = access.generation();

    // bob's line goes, alice's stays; whoever is remembered stays so.
    folder.write("passwd", &format!("# moved\nalice:{ALICE}\n"));
    folder.write("acl", "user alice\ntopic b\n");
    access.reload(&folder.files).expect("good files");
    assert!(access.generation() > before);
    assert!(access.is_current(&alice) && !access.is_current(&bob));
    assert!(!access.may_publish(&alice, "id", "a") && access.may_publish(&alice, "id", "b"));
    assert_eq!(run(access.authenticate("bob", b"builder")), Err(Refusal::WrongPassword));

    // alice's password changes.
    folder.write("passwd", &format!("alice:{BOB}\n"));
    access.reload(&folder.files).expect("good files");
    assert!(!access.is_current(&alice));
    run(async {
        assert_eq!(access.authenticate("alice", b"wonderland").await, Err(Refusal::WrongPassword));
        let again = access.authenticate("alice", b"builder").await.expect("right");
        assert!(access.is_current(&again) && again != alice);
    });

    // Both files go.
    access.reload(&Files::default()).expect("nothing to read");
    assert!(!access.has_users() && !access.has_acl() && !access.is_current(&alice));
}

#[test]
fn a_bad_reload_tells_every_mistake_and_changes_nothing() {
    let folder = Folder::new(Some(&users()), Some("topic a\n"));
    let access = folder.open();
    let before = access.generation();
    folder.write("passwd", "alice:plain\nbob\n");
    folder.write("acl", "tpic b\n");
    let error = access.reload(&folder.files).expect_err("mistakes").to_string();
    assert_eq!(error.lines().count(), 3, "{error}");
    assert!(error.contains("passwd:1: ") && error.contains("passwd:2: ") && error.contains("acl:1: "), "{error}");
    assert_eq!(access.generation(), before);
    assert!(run(access.authenticate("alice", b"wonderland")).is_ok());
    assert!(access.may_publish(&Identity::Anonymous, "id", "a"));
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let gone = folder.path().join("gone");
    let latin1 = folder.path().join("latin1");
    fs::write(&latin1, b"topic a\ntopic \xe4\n").expect("written");
    let files = |password_file: &Path, acl_file: &Path| Files {
        password_file: Some(password_file.to_owned()),
        acl_file: Some(acl_file.to_owned()),
    };
    let error = Access::open(&files(&gone, &latin1)).err().expect("mistakes").to_string();
    let lines: Vec<_> = error.lines().collect();
    assert!(lines[0].starts_with(&format!("{}: cannot be read: ", gone.display())), "{error}");
    assert!(lines[1].starts_with(&format!("{}:2: is not UTF-8", latin1.display())), "{error}");
    let error = Access::open(&files(folder.path(), &latin1)).err().expect("mistakes").to_string();
    assert!(error.contains("it is no regular file"), "{error}");
    let large = folder.path().join("large");
    File::create(&large).and_then(|file| file.set_len(ACCESS_FILE_BYTES_MAX as u64 + 1)).expect("written");
    let error = Access::open(&files(&gone, &large)).err().expect("mistakes").to_string();
    assert!(error.contains("is larger than 32 MiB"), "{error}");
}

/// Who was verified before needs no turn; who was not waits for one, and too many are not let in.
#[test]
fn guessers_do_not_hold_up_whoever_was_verified_before() {
    let folder = Folder::new(Some(&users()), None);
    let access = folder.open();
    run(async {
        access.authenticate("alice", b"wonderland").await.expect("right");
        let turns = access.turns.clone().acquire_many_owned(PASSWORDS_AT_ONCE_MAX as u32).await.expect("open");
        let mut waiting: Vec<_> = (0..PASSWORDS_WAITING_MAX + PASSWORDS_AT_ONCE_MAX)
            .map(|_| Box::pin(access.authenticate("alice", b"guess")))
            .collect();
        let mut pending = 0;
        std::future::poll_fn(|context| {
            pending = waiting.iter_mut().map(|future| usize::from(future.as_mut().poll(context).is_pending())).sum();
            Poll::Ready(())
        })
        .await;
        assert_eq!(pending, waiting.len());
        assert_eq!(access.authenticate("bob", b"builder").await, Err(Refusal::Busy));
        assert_eq!(access.authenticate("nobody", b"x").await, Err(Refusal::Busy));
        assert!(access.authenticate("alice", b"wonderland").await.is_ok());
        // Those who give up leave their place.
        drop(waiting);
        drop(turns);
        assert!(access.authenticate("bob", b"builder").await.is_ok());
        assert_eq!(access.waiting.load(Ordering::Relaxed), 0);
    });
}

/// At most two are hashed at once even when the clients that asked are gone.
#[test]
fn a_turn_is_given_back_by_the_work_not_by_its_client() {
    let folder = Folder::new(Some(&users()), None);
    let access = folder.open();
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().expect("a runtime");
    runtime.block_on(async {
        // The only thread that could hash is held up.
        let (release, held) = std::sync::mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || held.recv());
        let mut gone = Box::pin(access.authenticate("alice", b"guess"));
        std::future::poll_fn(|context| {
            assert!(gone.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        drop(gone);
        assert_eq!(access.waiting.load(Ordering::Relaxed), 0);
        assert_eq!(access.turns.available_permits(), PASSWORDS_AT_ONCE_MAX - 1);
        drop(release);
        drop(access.turns.acquire_many(PASSWORDS_AT_ONCE_MAX as u32).await.expect("open"));
        assert!(access.authenticate("alice", b"wonderland").await.is_ok());
    });
}

/// What an unknown name is compared with is a line of the file, so that it takes what a known one takes.
#[test]
fn an_unknown_name_proves_nothing_even_with_the_password_it_is_compared_with() {
    let folder = Folder::new(Some(&format!("alice:{ALICE}\n")), None);
    let access = folder.open();
    run(async {
        assert_eq!(access.authenticate("mallory", b"wonderland").await, Err(Refusal::WrongPassword));
        let alice = access.state.load().users.as_ref().and_then(|users| users.get("alice").cloned()).expect("there");
        assert!(!alice.remembers(&access.tag("mallory", b"wonderland")));
        assert!(!alice.remembers(&access.tag("alice", b"wonderland")));
        access.authenticate("alice", b"wonderland").await.expect("right");
        assert!(alice.remembers(&access.tag("alice", b"wonderland")));
    });
}

#[test]
fn a_reload_while_a_password_waits_counts() {
    let folder = Folder::new(Some(&users()), None);
    let access = folder.open();
    run(async {
        let turns = access.turns.clone().acquire_many_owned(PASSWORDS_AT_ONCE_MAX as u32).await.expect("open");
        let mut late = Box::pin(access.authenticate("bob", b"builder"));
        std::future::poll_fn(|context| {
            assert!(late.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        folder.write("passwd", &format!("alice:{ALICE}\n"));
        access.reload(&folder.files).expect("good file");
        drop(turns);
        assert_eq!(late.await, Err(Refusal::WrongPassword));
    });
}

#[test]
fn access_is_shared_and_its_futures_move() {
    fn shared<T: Send + Sync>(_: &T) {}
    fn moves<T: Send>(_: T) {}
    let access = Folder::new(None, None).open();
    shared(&access);
    moves(access.authenticate("alice", b"wonderland"));
}
