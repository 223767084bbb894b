//! What stands behind the question mark of a request: names and values, percent-encoded. A plus is a plus, as in any
//! other part of a URL: it is a wildcard of topic filters.

/// Characters of a name that an answer says again.
const NAMED_CHARS_MAX: usize = 40;

/// The values of these names, in their order. An error says which other name there is, which one comes twice, or what
/// cannot be decoded.
pub fn parse<const N: usize>(query: &str, names: [&str; N]) -> Result<[Option<String>; N], String> {
    let mut values = [const { None }; N];
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some(at) = names.iter().position(|known| *known == name) else {
            let names = if N == 0 { "none".to_owned() } else { names.join(", ") };
            return Err(format!("{:?} is no parameter of this; there is {names}", shortened(name)));
        };
        let value = decode(value).ok_or_else(|| format!("the value of {name} is not percent-encoded UTF-8"))?;
        if values[at].replace(value).is_some() {
            return Err(format!("{name} stands twice"));
        }
    }
    Ok(values)
}

/// What a client says, short enough for an answer.
fn shortened(text: &str) -> &str {
    text.char_indices().nth(NAMED_CHARS_MAX).map_or(text, |(end, _)| &text[..end])
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?].map(|digit| char::from(digit).to_digit(16));
                (digits[0]? * 16 + digits[1]?) as u8
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn values_are_decoded_and_nothing_is_overlooked() {
        let two = |query| parse(query, ["filter", "limit"]);
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(two(""), Ok([None, None]));
        assert_eq!(two("filter=a/+/%23&limit=7"), Ok([some("a/+/#"), some("7")]));
        assert_eq!(two("limit=&filter=%C3%a9%20=%2B"), Ok([some("é =+"), some("")]));
        assert_eq!(two("&filter&"), Ok([some(""), None]));
        for bad in
            ["filter=%", "filter=%2", "filter=%GG", "filter=%ff", "filter=a&filter=b", "Filter=a", "=a", "filters=a"]
        {
            assert!(two(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_that_is_not_known_is_told_in_brief_with_those_that_are() {
        let told = |query: &str| parse(query, ["filter", "limit"]).expect_err("no parameter");
        assert_eq!(told("x=1"), "\"x\" is no parameter of this; there is filter, limit");
        assert_eq!(parse("x=1", []).expect_err("no parameter"), "\"x\" is no parameter of this; there is none");
        assert!(told(&"x".repeat(10_000)).len() < 200);
    }
}
