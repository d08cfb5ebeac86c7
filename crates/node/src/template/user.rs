//! Who runs: the numbers behind a user name, from the image's own `/etc/passwd` and `/etc/group`.

use std::fs;
use std::io::Read;
use std::path::PathBuf;

use dormouse_sandbox::User;
use k8s_openapi::api::core::v1 as core;

/// As much of a user database as is read.
const DATABASE_BYTES_MAX: u64 = 1 << 20;

/// The file as the merged image shows it; symbolic links are not followed, because they could lead out of the image.
fn read(layers: &[PathBuf], name: &str) -> Option<String> {
    for layer in layers {
        let etc = layer.join("etc");
        match fs::symlink_metadata(&etc) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return None,
            Err(_) => continue,
        }
        let path = etc.join(name);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_file() => {
                let mut text = Vec::new();
                fs::File::open(path).ok()?.take(DATABASE_BYTES_MAX).read_to_end(&mut text).ok()?;
                return Some(String::from_utf8_lossy(&text).into_owned());
            }
            // A whiteout or anything else hides what is below.
            Ok(_) => return None,
            Err(_) => {}
        }
    }
    None
}

fn field<T: std::str::FromStr>(line: &str, at: usize) -> Option<T> {
    line.split(':').nth(at)?.parse().ok()
}

/// The line of `/etc/passwd` or `/etc/group` whose first field is `name`.
fn named<'a>(database: &'a str, name: &str) -> Option<&'a str> {
    database.lines().find(|line| line.split(':').next() == Some(name))
}

/// The numbers to run as: the pod's word before the image's.
///
/// # Errors
/// A name that the image does not know, or root where the pod forbids it.
pub(super) fn resolve(
    image_user: &str,
    layers: &[PathBuf],
    context: &core::SecurityContext,
    pod: &core::PodSecurityContext,
) -> Result<User, String> {
    let (user, group) = match image_user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (image_user, None),
    };
    let given = context.run_as_user.or(pod.run_as_user);
    let given_group = context.run_as_group.or(pod.run_as_group);
    let number =
        |value: i64, what: &str| u32::try_from(value).map_err(|_| format!("{what} {value} is out of range"));
    let simple = user.is_empty() || user.parse::<u32>().is_ok();
    let needs_database = given.is_none() || given_group.is_none();
    let passwd = if needs_database || !simple { read(layers, "passwd") } else { None }.unwrap_or_default();
    let groups = read(layers, "group").unwrap_or_default();
    let (uid, line) = match given {
        Some(uid) => (number(uid, "runAsUser")?, None),
        None if user.is_empty() => (0, named(&passwd, "root")),
        None => match user.parse::<u32>() {
            Ok(uid) => (uid, None),
            Err(_) => {
                let line = named(&passwd, user);
                let uid = line.and_then(|line| field(line, 2));
                (
                    uid.ok_or_else(|| {
                        format!("unable to find user {user}: no matching entries in passwd file")
                    })?,
                    line,
                )
            }
        },
    };
    let line = line.or_else(|| passwd.lines().find(|line| field(line, 2) == Some(uid)));
    let gid = match (given_group, group.filter(|_| given.is_none())) {
        (Some(gid), _) => number(gid, "runAsGroup")?,
        (None, Some(group)) => match group.parse() {
            Ok(gid) => gid,
            Err(_) => named(&groups, group)
                .and_then(|line| field(line, 2))
                .ok_or_else(|| format!("unable to find group {group}: no matching entries in group file"))?,
        },
        (None, None) => line.and_then(|line| field(line, 3)).unwrap_or(0),
    };
    let must_not_be_root = context.run_as_non_root.or(pod.run_as_non_root) == Some(true);
    if must_not_be_root && uid == 0 {
        return Err("container has runAsNonRoot and image will run as root".to_owned());
    }
    let name = line.and_then(|line| line.split(':').next()).unwrap_or_default();
    let member = |line: &&str| {
        !name.is_empty()
            && line.split(':').nth(3).is_some_and(|list| list.split(',').any(|have| have == name))
    };
    let mut additional_gids: Vec<u32> =
        groups.lines().filter(member).filter_map(|line| field(line, 2)).collect();
    for gid in pod.supplemental_groups.iter().flatten().chain(&pod.fs_group) {
        additional_gids.push(number(*gid, "group")?);
    }
    additional_gids.retain(|have| *have != gid);
    additional_gids.sort_unstable();
    additional_gids.dedup();
    Ok(User { uid, gid, additional_gids })
}

/// The home directory that the image gives this user.
pub(super) fn home(uid: u32, layers: &[PathBuf]) -> String {
    let passwd = read(layers, "passwd").unwrap_or_default();
    let line = passwd.lines().find(|line| field(line, 2) == Some(uid));
    let home = line.and_then(|line| line.split(':').nth(5)).filter(|home| home.starts_with('/'));
    home.map_or_else(|| if uid == 0 { "/root".to_owned() } else { "/".to_owned() }, str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> (tempfile::TempDir, Vec<PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        let (top, base) = (dir.path().join("top"), dir.path().join("base"));
        fs::create_dir_all(&top).unwrap();
        fs::create_dir_all(base.join("etc")).unwrap();
        fs::write(base.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv:/bin/false\n")
            .unwrap();
        fs::write(base.join("etc/group"), "root:x:0:\nwww:x:34:\nlogs:x:50:web,other\n").unwrap();
        let layers = vec![top, base];
        (dir, layers)
    }

    fn check(image_user: &str, context: core::SecurityContext) -> Result<(u32, u32, Vec<u32>), String> {
        let (_dir, layers) = image();
        resolve(image_user, &layers, &context, &core::PodSecurityContext::default())
            .map(|user| (user.uid, user.gid, user.additional_gids))
    }

    #[test]
    fn names_numbers_and_groups() {
        let none = core::SecurityContext::default;
        assert_eq!(check("", none()), Ok((0, 0, vec![])));
        assert_eq!(check("web", none()), Ok((33, 34, vec![50])));
        assert_eq!(check("web:logs", none()), Ok((33, 50, vec![])));
        assert_eq!(check("65532", none()), Ok((65532, 0, vec![])));
        assert_eq!(check("65532:7", none()), Ok((65532, 7, vec![])));
        assert!(check("nobody", none()).unwrap_err().contains("unable to find user nobody"));
    }

    #[test]
    fn the_pod_overrides_the_image_and_may_forbid_root() {
        let context = core::SecurityContext { run_as_user: Some(33), ..Default::default() };
        assert_eq!(check("root", context), Ok((33, 34, vec![50])));
        let context = core::SecurityContext { run_as_non_root: Some(true), ..Default::default() };
        assert!(check("", context).unwrap_err().contains("runAsNonRoot"));
    }

    #[test]
    fn a_link_out_of_the_image_is_not_followed() {
        let (_dir, layers) = image();
        fs::create_dir_all(layers[0].join("etc")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", layers[0].join("etc/passwd")).unwrap();
        assert_eq!(read(&layers, "passwd"), None);
        assert_eq!(home(0, &layers), "/root");
    }
}
