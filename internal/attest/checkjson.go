package attest

import (
	"encoding/json"
	"slices"
)

// AppendChecks appends what json.Marshal makes of the list, and [] for none. A decision is written with every release, and the reflection
// of encoding/json over its two hundred strings is a thirtieth of one.
func AppendChecks(b []byte, checks []Check) []byte {
	b = append(slices.Grow(b, 160*len(checks)+2), '[')
	for i := range checks {
		c := &checks[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = appendText(append(b, `{"name":`...), c.Name)
		b = appendText(append(b, `,"status":`...), string(c.Status))
		b = appendText(append(b, `,"code":`...), c.Code)
		b = appendUnlessEmpty(b, `,"expected":`, c.Expected)
		b = appendUnlessEmpty(b, `,"got":`, c.Got)
		b = appendText(append(b, `,"source":`...), c.Source)
		b = appendUnlessEmpty(b, `,"section":`, c.Section)
		b = appendUnlessEmpty(b, `,"advice":`, c.Advice)
		b = append(b, '}')
	}
	return append(b, ']')
}

func appendUnlessEmpty(b []byte, name, s string) []byte {
	if s == "" {
		return b
	}
	return appendText(append(b, name...), s)
}

// appendText leaves to encoding/json whatever it would escape.
func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			text, _ := json.Marshal(s) // a string always has a text
			return append(b, text...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
