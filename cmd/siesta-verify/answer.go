package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/eosc-siesta/siestad/internal/attest"
)

// answer is the verdict as `-o json` prints it. Scripts depend on its members:
// none is ever absent, and none is added.
type answer struct {
	TEE       string         `json:"tee"`
	Product   string         `json:"product"`
	Genuine   bool           `json:"genuine"`
	TCBStatus string         `json:"tcb_status"`
	Checks    []attest.Check `json:"checks"`
	Verdict   string         `json:"verdict"`
	Code      string         `json:"code"`
}

func (a *answer) writeJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(a)
}

// What a cell of the table shows at most, in bytes of hex and in words; -o json
// has the whole values.
const (
	maxHexCell  = 24
	maxTextCell = 60
)

func (a *answer) writeTable(w io.Writer) error {
	var b strings.Builder
	tab := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "CHECK\tSTATUS\tEXPECTED\tGOT\tSOURCE")
	for _, c := range a.Checks {
		source := c.Source
		if c.Section != "" {
			source += ", " + c.Section
		}
		fmt.Fprintf(tab, "%s\t%s\t%s\t%s\t%s\n", plain(c.Name), c.Status, cell(c.Expected), cell(c.Got), plain(source))
	}
	if err := tab.Flush(); err != nil {
		return err
	}
	b.WriteByte('\n')
	for _, c := range a.Checks {
		if c.Status == attest.Failed && c.Advice != "" {
			fmt.Fprintf(&b, "%s: %s\n", plain(c.Name), plain(c.Advice))
		}
	}
	fmt.Fprintln(&b, a.summary())
	_, err := io.WriteString(w, b.String())
	return err
}

// summary is the last line: what it is, whether it is real, and the verdict.
func (a *answer) summary() string {
	what := "evidence of an unknown kind"
	if a.TEE != "" {
		what = plain(a.TEE)
	}
	if a.Product != "" {
		what += " " + plain(a.Product)
	}
	genuine := "not shown to be genuine"
	if a.Genuine {
		genuine = "genuine"
	}
	if a.TCBStatus != "" {
		genuine += ", TCB " + plain(a.TCBStatus)
	}
	verdict := a.Verdict
	if a.Code != "" {
		verdict += " (" + a.Code + ")"
	}
	return fmt.Sprintf("verdict: %s; %s, %s", verdict, what, genuine)
}

func cell(s string) string {
	r, limit := []rune(plain(s)), maxTextCell
	if strings.Trim(s, "0123456789abcdef") == "" {
		limit = maxHexCell
	}
	if len(r) > limit {
		return string(r[:limit-1]) + "…"
	}
	if len(r) == 0 {
		return "-"
	}
	return string(r)
}

// plain keeps a terminal safe: what came from evidence cannot steer it.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u202e' {
			return '?'
		}
		return r
	}, s)
}
