package api

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestFormsInWords: what has a form has it in words in openapi.yaml, too, and whoever writes it wrongly is told those and no
// regular expression, nor what was sent.
func TestFormsInWords(t *testing.T) {
	r := newRig(t)
	op := r.person("op", "operator")
	body := `{"id":"UPPER","name":"Epi","valid_until":"2099-01-01T00:00:00Z"}`
	for _, row := range []struct {
		method, path, body, where, what string
		options                         []option
	}{
		{"GET", "/v1/workspaces/UPPER", "", "path workspace", "must be 26 digits and small letters, without i, l, o and u", nil},
		{"GET", "/v1/decisions?workspace=UPPER", "", "query workspace", "must be 26 digits and small letters, without i, l, o and u", nil},
		{"GET", "/v1/projects/UPPER", "", "path project", "must be 2 to 63 small letters, digits and hyphens, with no hyphen first", nil},
		{"GET", "/v1/operations/UPPER", "", "path operation", "must be 1 to 64 small letters, digits and hyphens", nil},
		{"POST", "/v1/projects", body, "body /id", "must be 2 to 63 small letters, digits and hyphens, with no hyphen first", nil},
		{"POST", "/v1/projects", body, "header Idempotency-Key", "must be letters, digits and _.:-", []option{with("Idempotency-Key", "UPPER ROOM")}},
	} {
		p := r.want(400, op, row.method, row.path, row.body, row.options...).problem(t)
		text, err := json.Marshal(p)
		must(t, err)
		if !strings.Contains(string(text), `{"what":"`+row.what+`","where":"`+row.where+`"}`) || strings.Contains(string(text), "UPPER") {
			t.Errorf("%s %s: %s", row.method, row.path, text)
		}
	}
	contract, err := os.ReadFile("../../openapi.yaml")
	must(t, err)
	for _, form := range regexp.MustCompile(`pattern: .*`).FindAllString(string(contract), -1) {
		if !strings.Contains(form, "description: 'must be ") {
			t.Errorf("no words for %s", form)
		}
	}
}
