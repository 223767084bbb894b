//! Response Information (3.2.2.3.14): what a client that asks for it is told of where its answers may go. The
//! configuration says what, with `{client_id}` and `{user}` in it.

/// What the template says of a client; `None` where it says nothing, or more than a string of MQTT holds.
pub fn of(template: &str, client_id: &str, user: Option<&str>) -> Option<String> {
    let mut text = String::new();
    let mut put = |part: Part<'_>| {
        text.push_str(match part {
            Part::Text(text) => text,
            Part::ClientId => client_id,
            Part::User => user.unwrap_or_default(),
        })
    };
    read(template, &mut put).ok()?;
    (1..=usize::from(u16::MAX)).contains(&text.len()).then_some(text)
}

/// What is wrong with a template, if anything is.
pub fn check(template: &str) -> Result<(), String> {
    if template.contains('\0') {
        return Err("must not hold U+0000".to_owned());
    }
    read(template, &mut |_| {})
}

enum Part<'a> {
    Text(&'a str),
    ClientId,
    User,
}

fn read<'a>(template: &'a str, put: &mut impl FnMut(Part<'a>)) -> Result<(), String> {
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        put(Part::Text(&rest[..at]));
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            put(Part::Text(brace));
            rest = after;
            continue;
        }
        let name = rest.split_once('}').filter(|_| brace == "{");
        let Some((name, after)) = name else {
            return Err("has a lone brace; write {{ or }} for the character itself".to_owned());
        };
        put(match name {
            "client_id" => Part::ClientId,
            "user" => Part::User,
            _ => return Err(format!("has {{{name}}}, which is unknown; there are {{client_id}} and {{user}}")),
        });
        rest = after;
    }
    put(Part::Text(rest));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_filled_in_once_and_whole() {
        let of = |template| of(template, "{user}", Some("me"));
        assert_eq!(of("answers/{client_id}/{user}/x").as_deref(), Some("answers/{user}/me/x"));
        assert_eq!(of("{{{user}}}").as_deref(), Some("{me}"));
        assert_eq!(of(""), None);
        assert_eq!(super::of("{user}", "c", None), None);
        assert_eq!(super::of("x{client_id}", &"c".repeat(65_535), None), None);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (wrong, said) in [("{", "lone brace"), ("}", "lone"), ("{x", "lone"), ("{x}", "{x}"), ("\0", "U+0000")] {
            let error = check(wrong).expect_err("wrong");
            assert!(error.contains(said), "{error}");
        }
        assert_eq!(check("a/{client_id}{user}{{}}"), Ok(()));
    }
}
