package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const maxJSONDepth = 16

// checkJSON refuses what two JSON parsers may read differently: a name given twice in one object, anything after the
// value, text that is not UTF-8. The validator would let duplicate names through.
func checkJSON(body []byte) error {
	if !utf8.Valid(body) {
		return errors.New("the body is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := checkValue(d, 0); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON value")
	}
	return nil
}

func checkValue(d *json.Decoder, depth int) error {
	if depth > maxJSONDepth {
		return errors.New("the JSON is nested too deeply")
	}
	token, err := d.Token()
	if err != nil {
		return errors.New("the body is not JSON")
	}
	open, nested := token.(json.Delim)
	if !nested {
		return nil
	}
	names := map[string]bool{}
	for d.More() {
		if open == '{' {
			token, err := d.Token()
			name, ok := token.(string)
			if err != nil || !ok {
				return errors.New("the body is not JSON")
			}
			if names[name] {
				return fmt.Errorf("the name %.40q is given twice in one object", name)
			}
			names[name] = true
		}
		if err := checkValue(d, depth+1); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return errors.New("the body is not JSON")
	}
	return nil
}

// checkTexts refuses texts that are not one line: many end in the audit log, which takes no others, and are read in terminals.
// It gives the members' places and never what stands there. body has passed checkJSON.
func checkTexts(body []byte) error {
	var value any
	if len(body) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&value); err != nil {
		return kindMalformed.because("The body is not JSON.")
	}
	p := kindInvalid.because("A text has a line break, a tab or another control character. Texts are one line; write a space instead.")
	p.faults = controls(value, "", nil)
	if len(p.faults) == 0 {
		return nil
	}
	return p
}

func controls(value any, where string, found []fault) []fault {
	if len(found) == 20 {
		return found
	}
	switch v := value.(type) {
	case string:
		if strings.ContainsFunc(v, unicode.IsControl) {
			found = append(found, fault{"body " + clip(where), "a control character, such as a line break"})
		}
	case []any:
		for i, inner := range v {
			found = controls(inner, where+"/"+strconv.Itoa(i), found)
		}
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			found = controls(v[name], where+"/"+name, found)
		}
	}
	return found
}
