package openstack

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
)

// microversion is a pair such as 2.90. The zero value means none.
type microversion struct{ major, minor int }

func parseMicroversion(s string) (microversion, bool) {
	major, minor, ok := strings.Cut(s, ".")
	if !ok || len(s) > 10 {
		return microversion{}, false
	}
	a, err1 := strconv.Atoi(major)
	b, err2 := strconv.Atoi(minor)
	if err1 != nil || err2 != nil || a < 0 || b < 0 {
		return microversion{}, false
	}
	return microversion{a, b}, true
}

func (m microversion) less(o microversion) bool {
	return m.major < o.major || m.major == o.major && m.minor < o.minor
}

func (m microversion) String() string { return fmt.Sprintf("%d.%d", m.major, m.minor) }

// negotiate asks the service which microversions it offers and picks the lesser of what we want and what it has. A
// service without a minimum of ours may offer none at all; then none is sent.
func (c *Client) negotiate(ctx context.Context, provider *gophercloud.ProviderClient, svc service, base string) (string, error) {
	u, err := url.Parse(base)
	if err != nil {
		return "", &Error{Kind: Permanent, Service: svc.name, Op: "reading versions", Reason: "the endpoint is not a URL"}
	}
	u.Path = serviceRoot(u.Path) + "/"
	if svc.minimum != "" {
		u.Path += svc.version + "/"
	}
	var answer json.RawMessage
	resp, err := provider.Request(withWire(ctx, svc.name), "GET", u.String(), &gophercloud.RequestOpts{
		JSONResponse: &answer,
		OkCodes:      []int{http.StatusOK, http.StatusMultipleChoices},
	})
	if resp != nil {
		_ = resp.Body.Close() // read to its end already
	}
	if err != nil {
		return "", classify(request{service: svc, op: "reading versions", method: "GET"}, err)
	}
	low, high := offered(answer, svc)
	wanted, _ := parseMicroversion(svc.wanted)
	if svc.minimum == "" {
		if high == (microversion{}) {
			return "", nil
		}
		if wanted.less(high) {
			high = wanted
		}
		return high.String(), nil
	}
	minimum, _ := parseMicroversion(svc.minimum)
	if high.less(minimum) || wanted.less(low) {
		return "", &Error{
			Kind: Permanent, Service: svc.name, Op: "reading versions", Object: c.cfg.Site,
			Reason: fmt.Sprintf("the site offers microversions %s to %s; %s to %s are needed", low, high, svc.minimum, svc.wanted),
		}
	}
	if wanted.less(high) {
		high = wanted
	}
	return high.String(), nil
}

type versionEntry struct {
	ID         string `json:"id"`
	Version    string `json:"version"`
	MaxVersion string `json:"max_version"`
	MinVersion string `json:"min_version"`
}

// offered reads the lowest and highest microversion of the version we speak out of the documents that services give:
// one version, a list of them, or Barbican's list inside "values".
func offered(doc json.RawMessage, svc service) (low, high microversion) {
	var one struct {
		Version  versionEntry    `json:"version"`
		Versions json.RawMessage `json:"versions"`
	}
	if json.Unmarshal(doc, &one) != nil {
		return
	}
	entries := []versionEntry{one.Version}
	var list []versionEntry
	var values struct {
		Values []versionEntry `json:"values"`
	}
	switch {
	case json.Unmarshal(one.Versions, &list) == nil:
		entries = append(entries, list...)
	case json.Unmarshal(one.Versions, &values) == nil:
		entries = append(entries, values.Values...)
	}
	major := strings.SplitN(svc.version, ".", 2)[0]
	for _, e := range entries {
		if strings.SplitN(e.ID, ".", 2)[0] != major {
			continue
		}
		top := e.Version
		if top == "" {
			top = e.MaxVersion
		}
		h, ok := parseMicroversion(top)
		l, okLow := parseMicroversion(e.MinVersion)
		if ok && okLow && high.less(h) {
			low, high = l, h
		}
	}
	return low, high
}
