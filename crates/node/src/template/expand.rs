//! `$(NAME)` in commands, arguments and values.

/// Replaces `$(NAME)` by the variable's value; unknown names stay as they are, `$$` is one `$`.
pub(super) fn expand(text: &str, variables: &[(&str, String)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = after.strip_prefix('(').and_then(|after| after.split_once(')')) {
            match variables.iter().rev().find(|(have, _)| *have == name) {
                Some((_, value)) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_are_replaced_and_others_stay() {
        let variables = [("A", "1".to_owned()), ("B", "two".to_owned())];
        let check = |input: &str, expect: &str| assert_eq!(expand(input, &variables), expect, "{input}");
        check("$(A)-$(B)", "1-two");
        check("$(C) $A $(A", "$(C) $A $(A");
        check("$$(A) $$$(A)", "$(A) $1");
        check("cost: 5$", "cost: 5$");
    }
}
