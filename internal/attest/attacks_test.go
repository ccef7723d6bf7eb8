package attest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestAttackList holds docs/attacks.md to what it says: 45 rows, each with a test
// that exists or the words that nobody can defend against it.
func TestAttackList(t *testing.T) {
	page, err := os.ReadFile("../../docs/attacks.md")
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string][]int{}
	sets, err := filepath.Glob(conformance + "/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range sets {
		var set struct {
			Cases []conformanceCase `json:"cases"`
		}
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &set); err != nil {
			t.Fatal(err)
		}
		for _, c := range set.Cases {
			cases[c.ID] = c.Attacks
			for _, n := range c.Attacks {
				if n < 1 || n > 45 {
					t.Errorf("case %s is about attack %d", c.ID, n)
				}
			}
		}
	}
	tests := map[string]string{}
	source := func(dir string) string {
		if _, read := tests[dir]; !read {
			files, err := filepath.Glob(filepath.Join("../..", dir, "*_test.go"))
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range files {
				data, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				tests[dir] += string(data)
			}
		}
		return tests[dir]
	}
	row := regexp.MustCompile(`(?m)^\| (\d+) \|.*$`)
	named := regexp.MustCompile("`([^`]+)`")
	for n, line := range row.FindAllString(string(page), -1) {
		if !strings.HasPrefix(line, "| "+strconv.Itoa(n+1)+" |") {
			t.Fatalf("row %d is %.40s", n+1, line)
		}
		columns := strings.Split(line, " | ")
		shown := named.FindAllStringSubmatch(columns[len(columns)-1], -1)
		if len(shown) == 0 && !strings.Contains(line, "not defendable") {
			t.Errorf("nothing shows row %d", n+1)
		}
		for _, s := range shown {
			if id, isCase := strings.CutPrefix(s[1], "case:"); isCase {
				if _, known := cases[id]; !known {
					t.Errorf("row %d: there is no case %s", n+1, id)
				}
				continue
			}
			dir, name, _ := strings.Cut(s[1], ".Test")
			if !strings.Contains(source(dir), "func Test"+name+"(") {
				t.Errorf("row %d: there is no test %s", n+1, s[1])
			}
		}
	}
	if rows := len(row.FindAllString(string(page), -1)); rows != 45 {
		t.Errorf("%d rows", rows)
	}
}

// TestCodesAreDocumented looks for every code of every check in the documentation.
func TestCodesAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/attestation.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range append(append([]Check{}, snpTable...), tdxTable...) {
		if !strings.Contains(string(page), "`"+c.Code+"`") {
			t.Errorf("code %s of %q is not in docs/attestation.md", c.Code, c.Name)
		}
		if c.Name == "" || c.Source == "" || c.Advice == "" {
			t.Errorf("check %+v is incomplete", c)
		}
	}
}
