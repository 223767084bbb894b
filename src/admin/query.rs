//! What stands behind the question mark of a request: names and values, percent-encoded. A plus is a plus, as in any
//! other part of a URL: it is a wildcard of topic filters.

/// The values of these names, in their order. An error says which other name there is, which one comes twice, or what
/// cannot be decoded.
pub fn parse<const N: usize>(query: &str, names: [&str; N]) -> Result<[Option<String>; N], String> {
    let mut values = [const { None }; N];
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some(at) = names.iter().position(|known| *known == name) else {
            return Err(format!("{name:?} is no parameter of this; there is {}", names.join(", ")));
        };
        let value = decode(value).ok_or_else(|| format!("the value of {name} is not percent-encoded UTF-8"))?;
        if values[at].replace(value).is_some() {
            return Err(format!("{name} stands twice"));
        }
    }
    Ok(values)
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
}
