package audit

import (
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestCanonicalBytes pins the format: a stored leaf must stay readable for ever.
func TestCanonicalBytes(t *testing.T) {
	e := Entry{
		Actor: Actor{Kind: System}, Action: "key.release", Object: "workspace/<1>", Project: "p",
		Outcome: Refused, Code: "tcb", Request: "req-1", Details: map[string]any{"b": 2, "a": []string{"x"}},
	}
	s, err := e.seal(1234, time.Date(2026, 11, 23, 12, 0, 0, 123456789, time.FixedZone("", 3600)))
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"v":2,"id":"1234","time":"2026-11-23T11:00:00.123456Z","actor":{"kind":"system"},"action":"key.release",` +
		`"object":"workspace/<1>","project":"p","outcome":"refused","code":"tcb","request":"req-1","details":{"a":["x"],"b":2}}`
	if string(s.body) != want {
		t.Errorf("body is\n%s\nwant\n%s", s.body, want)
	}
	if s.openings != nil {
		t.Errorf("openings of nothing personal: %s", s.openings)
	}
}

func TestPersonalDataIsCommitted(t *testing.T) {
	a, err := entry(1).seal(1, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"alice", "Alice", "canary"} {
		if strings.Contains(string(a.body), secret) {
			t.Errorf("the body says %s: %s", secret, a.body)
		}
	}
	var openings map[string]opening
	if err := json.Unmarshal(a.openings, &openings); err != nil {
		t.Fatal(err)
	}
	if got, want := slices.Sorted(maps.Keys(openings)), []string{openName, openSubject, "personal.email"}; !slices.Equal(got, want) {
		t.Errorf("openings are %v", got)
	}
	b, err := entry(1).seal(1, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	var first, second body
	if err := json.Unmarshal(a.body, &first); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b.body, &second); err != nil {
		t.Fatal(err)
	}
	if first.Actor.Subject == second.Actor.Subject {
		t.Error("two entries of one person can be linked without their openings")
	}
	if commit("a", []byte("b"), "c") == commit("a", []byte("bc"), "") {
		t.Error("a commitment does not separate salt and value")
	}
}

func TestSealRefuses(t *testing.T) {
	for name, change := range map[string]func(*Entry){
		"zero":                  func(e *Entry) { *e = Entry{} },
		"kind":                  func(e *Entry) { e.Actor.Kind = "ghost" },
		"no kind":               func(e *Entry) { e.Actor.Kind = "" },
		"outcome":               func(e *Entry) { e.Outcome = "maybe" },
		"no outcome":            func(e *Entry) { e.Outcome = "" },
		"no action":             func(e *Entry) { e.Action = "" },
		"no object":             func(e *Entry) { e.Object = "" },
		"no subject":            func(e *Entry) { e.Actor.Subject = "" },
		"long object":           func(e *Entry) { e.Object = strings.Repeat("x", maxField+1) },
		"line break":            func(e *Entry) { e.Object = "a\nb" },
		"nul":                   func(e *Entry) { e.Project = "a\x00" },
		"not UTF-8":             func(e *Entry) { e.Actor.Name = "\xff" },
		"unnamed personal":      func(e *Entry) { e.Personal = map[string]string{"": "x"} },
		"long personal":         func(e *Entry) { e.Personal = map[string]string{"x": strings.Repeat("x", maxField+1)} },
		"details too large":     func(e *Entry) { e.Details = map[string]any{"x": strings.Repeat("x", maxBody)} },
		"details not JSON":      func(e *Entry) { e.Details = map[string]any{"x": math.NaN()} },
		"details of a function": func(e *Entry) { e.Details = map[string]any{"x": func() {}} },
	} {
		e := entry(1)
		change(&e)
		if _, err := e.seal(1, time.Now()); err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), "lice") {
			t.Errorf("%s: the error names a person: %v", name, err)
		}
	}
}
