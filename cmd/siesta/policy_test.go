package main

import (
	"strings"
	"testing"
	"time"
)

func TestPeriods(t *testing.T) {
	now := time.Date(2026, 11, 28, 10, 30, 0, 0, time.UTC)
	for _, row := range []struct{ flag, text, want string }{
		{"since", "30d", "2026-10-29T10:30:00Z"},
		{"since", "0d", "2026-11-28T10:30:00Z"},
		{"since", "12h", "2026-11-27T22:30:00Z"},
		{"since", "2026-11-01", "2026-11-01T00:00:00Z"},
		{"until", "2026-11-01", "2026-11-02T00:00:00Z"}, // that day belongs to it
		{"until", "2026-11-01T08:00:00+02:00", "2026-11-01T06:00:00Z"},
		{"until", "1d", "2026-11-27T10:30:00Z"},
		{"since", "-1d", ""},
		{"since", "100000d", ""},
		{"since", "-3h", ""},
		{"since", "2026-13-01", ""},
		{"since", "d", ""},
		{"until", " ", ""},
	} {
		at, err := parseSince(row.flag, row.text, now)
		if row.want == "" {
			if err == nil || !strings.Contains(err.Error(), "--"+row.flag) {
				t.Errorf("%s %q: %v, %v", row.flag, row.text, at, err)
			}
		} else if got := at.UTC().Format(time.RFC3339); err != nil || got != row.want {
			t.Errorf("%s %q: got %s, %v; want %s", row.flag, row.text, got, err, row.want)
		}
	}
}
