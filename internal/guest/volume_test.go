package guest

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestJournal(t *testing.T) {
	dir := t.TempDir()
	at := time.Date(2026, 11, 23, 22, 0, 0, 0, time.UTC)
	say := func(generation int, want string) {
		t.Helper()
		got, err := journal(dir, Boot{Generation: generation, At: at})
		if err != nil || got != want {
			t.Fatalf("got %q, %v, want %q", got, err, want)
		}
		at = at.Add(time.Hour)
	}
	const first = "; first written 2026-11-23T22:00:00Z"
	say(1, "boot 1 of this volume"+first)
	say(1, "boot 2 of this volume"+first)
	path := filepath.Join(dir, journalName)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(text, "3 1 2026-"...), 0o600); err != nil {
		t.Fatal(err)
	}
	say(2, "boot 3 of this volume"+first) // the torn line does not count
	if left, _ := filepath.Glob(filepath.Join(dir, "*.new")); len(left) != 0 {
		t.Errorf("left %q", left)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", path); err != nil {
		t.Fatal(err)
	}
	if _, err := journal(dir, Boot{Generation: 2, At: at}); err == nil {
		t.Error("followed a link")
	}
}
