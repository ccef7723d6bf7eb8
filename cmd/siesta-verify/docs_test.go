package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestDocs runs every command that docs/verify.md shows and holds the page to the
// output, from the root of the repository as a reader would. A line of … stands
// for any lines.
func TestDocs(t *testing.T) {
	t.Chdir("../..")
	page, err := os.ReadFile("docs/verify.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```\n\\$ siesta-verify ([^\n]*)\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(blocks) < 4 {
		t.Fatalf("only %d examples found", len(blocks))
	}
	for _, b := range blocks {
		status, out, errs := sv(nil, strings.Fields(b[1])...)
		if status == 2 {
			t.Errorf("%s: %s", b[1], errs)
		}
		rest := out
		for i, part := range strings.Split(b[2], "…\n") {
			at := strings.Index(rest, part)
			if at < 0 || i == 0 && at > 0 {
				t.Errorf("%s\nprints\n%s\nwhich does not go on with\n%s", b[1], out, part)
				break
			}
			rest = rest[at+len(part):]
		}
	}
}
