//! The disk that forgets, held to what it is to forget: a check that cannot fail proves nothing.

use crate::disk::ForgetfulDisk;
use crate::survival::Cut;
use std::fs;
use std::process::Command;
use support::random::Random;

/// Runs a shell script in the folder; gives what a power cut that forgets leaves of it: names and contents.
fn left_by(script: &str) -> Vec<(String, String)> {
    left_after(&[script])
}

/// The same after several power cuts, one behind each script.
fn left_after(scripts: &[&str]) -> Vec<(String, String)> {
    let disk = ForgetfulDisk::new();
    for script in scripts {
        let mut shell = Command::new("sh");
        shell.args(["-euc", script]).current_dir(disk.folder()).envs(disk.environment(0));
        assert!(shell.status().expect("a shell").success(), "{script}");
        disk.cut(Cut::Forgets, &mut Random::seeded(0));
    }
    let mut found = Vec::new();
    let mut folders = vec![disk.folder()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.strip_prefix(disk.folder()).expect("in it").display().to_string();
            if path.is_dir() {
                found.push((format!("{name}/"), String::new()));
                folders.push(path);
            } else {
                found.push((name, fs::read_to_string(&path).expect("text")));
            }
        }
    }
    found.sort();
    found
}

#[track_caller]
fn leaves(script: &str, due: &[(&str, &str)]) {
    let due: Vec<_> = due.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    assert_eq!(left_by(script), due, "{script}");
}

#[test]
fn what_is_not_synced_is_forgotten() {
    leaves("echo 1 > a", &[]);
    // Bytes without a name, a name without bytes, both.
    leaves("echo 1 > a; sync a", &[]);
    leaves("echo 1 > a; sync .", &[("a", "")]);
    leaves("echo 1 > a; sync -d a; sync .", &[("a", "1\n")]);
    leaves("echo 1 > a; sync a .; echo 2 >> a", &[("a", "1\n")]);
    leaves("echo 1 > a; sync a .; echo 2 >> a; sync a", &[("a", "1\n2\n")]);
    leaves("echo 1 > a; sync a .; printf 2 | dd of=a conv=notrunc,fdatasync status=none", &[("a", "2\n")]);
}

#[test]
fn a_cut_of_a_file_is_a_write() {
    leaves("echo 123456 > a; sync a .; truncate -s 3 a", &[("a", "123456\n")]);
    leaves("echo 123456 > a; sync a .; truncate -s 3 a; sync a", &[("a", "123")]);
    leaves("echo 123456 > a; sync a .; truncate -s 0 a; truncate -s 3 a; sync a", &[("a", "\0\0\0")]);
    leaves("echo 123456 > a; sync a .; : > a", &[("a", "123456\n")]);
    leaves("echo 123456 > a; sync a .; : > a; sync a", &[("a", "")]);
}

#[test]
fn names_change_when_their_folder_is_synced() {
    let made = "echo 1 > a; echo 2 > b; sync a b .; ";
    leaves(&format!("{made} mv b a"), &[("a", "1\n"), ("b", "2\n")]);
    leaves(&format!("{made} mv b a; sync ."), &[("a", "2\n")]);
    leaves(&format!("{made} rm a"), &[("a", "1\n"), ("b", "2\n")]);
    leaves(&format!("{made} rm a; sync ."), &[("b", "2\n")]);
    // The number of a file that is gone is not used again while its name may come back.
    leaves(&format!("{made} rm a; echo 3 > c; sync c"), &[("a", "1\n"), ("b", "2\n")]);
    leaves(&format!("{made} rm a; echo 3 > a; sync a ."), &[("a", "3\n"), ("b", "2\n")]);
}

#[test]
fn folders_have_names_too() {
    leaves("mkdir f; echo 1 > f/a; sync f/a f", &[]);
    leaves("mkdir f; echo 1 > f/a; sync f/a .", &[("f/", "")]);
    leaves("mkdir f; echo 1 > f/a; sync f/a f .", &[("f/", ""), ("f/a", "1\n")]);
    let made = "mkdir f; echo 1 > f/a; sync f/a f .; ";
    leaves(&format!("{made} rm -r f"), &[("f/", ""), ("f/a", "1\n")]);
    leaves(&format!("{made} rm -r f; mkdir g; echo 2 > g/b; sync g/b g"), &[("f/", ""), ("f/a", "1\n")]);
    leaves(&format!("{made} rm -r f; sync ."), &[]);
}

#[test]
fn what_survived_a_cut_is_durable() {
    let left = left_after(&["echo 1 > a; sync a .", "echo 2 >> a", "rm a", "echo 3 > b; sync b .", "mv b c"]);
    assert_eq!(left, [("a".into(), "1\n".into()), ("b".into(), "3\n".into())]);
}

#[test]
fn sectors_that_were_not_synced_are_old_new_or_garbage() {
    let (old, new) = (vec![b'o'; 512], vec![b'n'; 512]);
    let mut kinds = [0; 3];
    for seed in 0..20 {
        let disk = ForgetfulDisk::new();
        let mut random = Random::seeded(seed);
        fs::write(disk.folder().join("a"), old.repeat(8)).expect("a writable folder");
        disk.cut(Cut::Tears, &mut random);
        let torn = fs::read(disk.folder().join("a"));
        // Its name was not synced either, and without this program's being told to use the layer nothing was.
        assert!(torn.is_err() || torn.is_ok_and(|bytes| bytes.iter().all(|byte| b"o\0".contains(byte))));
        fs::write(disk.folder().join("b"), old.repeat(8)).expect("a writable folder");
        let mut shell = Command::new("sh");
        shell.args(["-euc", "sync b ."]).current_dir(disk.folder()).envs(disk.environment(0));
        assert!(shell.status().expect("a shell").success());
        fs::write(disk.folder().join("b"), new.repeat(8)).expect("a writable folder");
        disk.cut(Cut::Garbles, &mut random);
        for sector in fs::read(disk.folder().join("b")).expect("it is durable").chunks(512) {
            kinds[if sector == old {
                0
            } else if sector == new {
                1
            } else {
                2
            }] += 1;
        }
    }
    assert!(kinds.iter().all(|count| *count > 5), "old, new, garbage: {kinds:?}");
}
