package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// printer writes tables for people and, with -o json, the server's own JSON for scripts.
type printer struct {
	out  io.Writer
	json bool
}

// raw prints an answer's body as it came, indented. JSON itself escapes the control characters below U+0020 only; the
// others are escaped here, as some terminals obey them. Whoever reads the JSON gets the same text, and U+FFFD, as of any
// reader, for a byte that is no UTF-8.
func (p printer) raw(body []byte) error {
	var v json.RawMessage
	if err := json.Unmarshal(body, &v); err != nil {
		return fmt.Errorf("printing the answer: %w", err)
	}
	pretty, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("printing the answer: %w", err)
	}
	var text strings.Builder
	for _, r := range string(pretty) {
		if unicode.IsControl(r) && r != '\n' { // MarshalIndent breaks lines between values; in strings it is escaped
			fmt.Fprintf(&text, `\u%04x`, r)
		} else {
			text.WriteRune(r)
		}
	}
	_, err = fmt.Fprintln(p.out, text.String())
	return err
}

// table prints rows under a heading; cells are one line each.
func (p printer) table(heading []string, rows [][]string) error {
	w := tabwriter.NewWriter(p.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(heading, "\t"))
	for _, row := range rows {
		for i, cell := range row {
			row[i] = plain(cell)
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// fields prints one object as "name  value" lines; empty values are left out.
func (p printer) fields(pairs ...string) error {
	w := tabwriter.NewWriter(p.out, 0, 4, 2, ' ', 0)
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			fmt.Fprintf(w, "%s\t%s\n", pairs[i], plain(pairs[i+1]))
		}
	}
	return w.Flush()
}

// plain keeps what other people wrote, such as a reason, from commanding the terminal or breaking a table.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// plainLines is plain for texts of more than one line.
func plainLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		lines[i] = plain(line)
	}
	return strings.Join(lines, "\n")
}

// short cuts what is longer than anybody reads in a table, such as the id of a chip; -o json has all of it.
func short(s string) string {
	if runes := []rune(s); len(runes) > 64 {
		return string(runes[:63]) + "…"
	}
	return s
}

func seconds(s float64) string {
	return (time.Duration(s*1000) * time.Millisecond).Round(100 * time.Millisecond).String()
}
