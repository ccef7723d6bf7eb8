package main

import (
	"os"
	"reflect"
	"strings"
	"testing"
)

// TestEveryFieldIsDocumented: docs/configuration.md has a row for each field, and none for what is no field any more.
func TestEveryFieldIsDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]bool{}
	for line := range strings.Lines(string(page)) {
		if rest, ok := strings.CutPrefix(line, "| `"); ok {
			name, _, _ := strings.Cut(rest, "`")
			rows[name] = true
		}
	}
	for _, field := range fieldsOf(reflect.TypeFor[Config](), "") {
		if !rows[field] {
			t.Errorf("docs/configuration.md has no row for %s", field)
		}
		delete(rows, field)
	}
	for row := range rows {
		t.Errorf("docs/configuration.md has %s, which is no field", row)
	}
}

func fieldsOf(typ reflect.Type, prefix string) []string {
	var all []string
	for i := range typ.NumField() {
		f := typ.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if options == "inline" { // the development fields, which production has not
			continue
		}
		path, inner := prefix+name, f.Type
		if inner.Kind() == reflect.Slice && inner.Elem().Kind() == reflect.Struct {
			path, inner = path+"[]", inner.Elem()
		}
		all = append(all, path)
		if inner.Kind() == reflect.Struct {
			all = append(all, fieldsOf(inner, path+".")...)
		}
	}
	return all
}
