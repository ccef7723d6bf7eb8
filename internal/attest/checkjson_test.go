package attest

import (
	"encoding/json"
	"reflect"
	"testing"
)

func TestAppendChecksEqualsTheLibrary(t *testing.T) {
	plain := Check{Name: "signature", Status: Passed, Code: "signature", Source: "code"}
	full := plain
	for i := range reflect.TypeFor[Check]().NumField() { // a field that is added must be written
		reflect.ValueOf(&full).Elem().Field(i).SetString("field " + string(rune('a'+i)))
	}
	odd := full
	odd.Got = "a \"quote\", a \\, <b>&, a line\n, \x00, \x7f, é, \u2028 and a broken \xff"
	for _, checks := range [][]Check{{}, {plain}, {full, plain}, {odd, full, {}}} {
		want, err := json.Marshal(checks)
		if err != nil {
			t.Fatal(err)
		}
		if got := AppendChecks(nil, checks); string(got) != string(want) {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	if got := string(AppendChecks(nil, nil)); got != "[]" {
		t.Errorf("no checks: %s", got)
	}
}

func FuzzAppendChecks(f *testing.F) {
	f.Add("name", "passed", "code", "", "12 < 13 & \"x\"", "policy", "\xff", "\u2029")
	f.Fuzz(func(t *testing.T, name, status, code, expected, got, source, section, advice string) {
		checks := []Check{{name, Status(status), code, expected, got, source, section, advice}, {Name: got}}
		want, err := json.Marshal(checks)
		if err != nil {
			t.Fatal(err)
		}
		if out := AppendChecks(nil, checks); string(out) != string(want) {
			t.Errorf("got  %s\nwant %s", out, want)
		}
	})
}
