package guest

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// Line is what the measured command line says to this package.
type Line struct {
	Workspace  string
	Generation int
	Broker     string // URL without a trailing slash
	KeyHash    string // of B, as door.KeyHash writes it
}

const (
	maxLine   = 4096
	maxBroker = 200
)

var workspaceID = regexp.MustCompile(`^[0-9a-z]{26}$`)

// ParseLine reads the siesta.* words of a kernel command line. Firmware may append words of its
// own, which are not looked at; a siesta word that is unknown or comes twice is refused,
// for then somebody else has a hand in the line.
func ParseLine(text string) (Line, error) {
	if len(text) > maxLine {
		return Line{}, errors.New("reading the measured line: too long")
	}
	words := map[string]string{}
	for _, word := range strings.Fields(text) {
		name, value, _ := strings.Cut(word, "=")
		// The kernel takes - and _ in a name for the same; here nothing is the same
		// as anything else, and quotes are not undone.
		if !strings.HasPrefix(strings.Trim(name, `"'`), "siesta") {
			continue
		}
		if _, twice := words[name]; twice {
			return Line{}, fmt.Errorf("reading the measured line: %.40q appears twice", name)
		}
		words[name] = value
	}
	l := Line{Workspace: words["siesta.ws"], Broker: words["siesta.broker"], KeyHash: words["siesta.kb"]}
	generation, err := strconv.Atoi(words["siesta.gen"])
	l.Generation = generation
	for _, check := range []struct {
		ok   bool
		word string
	}{
		{workspaceID.MatchString(l.Workspace), "siesta.ws"},
		{err == nil && generation >= 1 && strconv.Itoa(generation) == words["siesta.gen"], "siesta.gen"},
		{isBroker(l.Broker), "siesta.broker"},
		{isKeyHash(l.KeyHash), "siesta.kb"},
	} {
		if !check.ok {
			return Line{}, fmt.Errorf("reading the measured line: %s is missing or malformed", check.word)
		}
	}
	if len(words) != 4 {
		return Line{}, errors.New("reading the measured line: there is a siesta word that this guest does not know")
	}
	return l, nil
}

func isBroker(s string) bool {
	u, err := url.Parse(s)
	return err == nil && len(s) <= maxBroker && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" &&
		u.User == nil && u.RawQuery == "" && u.Fragment == "" && !strings.HasSuffix(s, "/")
}

func isKeyHash(s string) bool {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	return err == nil && len(b) == 32
}
