package openstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/gophercloud/gophercloud/v2"
)

func TestClassify(t *testing.T) {
	answer := func(status int, body string, header ...string) error {
		h := http.Header{}
		for i := 0; i+1 < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		return gophercloud.ErrUnexpectedResponseCode{Actual: status, Body: []byte(body), ResponseHeader: h}
	}
	lost := &url.Error{Op: "Post", URL: "http://x", Err: io.EOF}
	refused := &url.Error{Op: "Post", URL: "http://x", Err: &net.OpError{Op: "dial", Err: errors.New("connection refused")}}
	for _, row := range []struct {
		name    string
		service service
		method  string
		err     error
		want    Kind
	}{
		{"absent", compute, "GET", answer(404, ""), NotFound},
		{"credential gone", identity, "POST", answer(404, ""), Forbidden},
		{"wrong secret", identity, "POST", answer(401, ""), Forbidden},
		{"policy", compute, "POST", answer(403, `{"forbidden": {"code": 403, "message": "Policy doesn't allow it"}}`), Forbidden},
		{"Nova over quota", compute, "POST", answer(403, `{"forbidden": {"code": 403, "message": "Quota exceeded for instances: Requested 1"}}`), Quota},
		{"Cinder over quota", volume, "POST", answer(413, `{"overLimit": {}}`, "Retry-After", "0"), Quota},
		{"Cinder rate limit", volume, "POST", answer(413, `{"overLimit": {}}`, "Retry-After", "12"), Retryable},
		{"Neutron over quota", network, "POST", answer(409, `{"NeutronError": {"type": "OverQuota", "message": "Quota exceeded"}}`), Quota},
		{"Neutron conflict", network, "POST", answer(409, `{"NeutronError": {"type": "MacAddressInUse", "message": "in use"}}`), Conflict},
		{"Barbican over quota", keyManager, "POST", answer(403, `{"description": "Quota reached for project p. Only 1 secrets are allowed"}`), Quota},
		{"Barbican policy", keyManager, "POST", answer(403, `{"description": "Secret creation attempt not allowed"}`), Forbidden},
		{"Barbican payload too large", keyManager, "PUT", answer(413, ``), Permanent},
		{"Glance over quota", image, "PUT", answer(413, ``), Quota},
		{"busy volume", volume, "DELETE", answer(400, `{"badRequest": {"message": "Invalid volume: Volume status must be available"}}`), Conflict},
		{"bad request", compute, "POST", answer(400, `{"badRequest": {"message": "no"}}`), Permanent},
		{"microversion", compute, "GET", answer(406, ""), Permanent},
		{"slow down", compute, "POST", answer(429, ""), Retryable},
		{"gateway on GET", compute, "GET", answer(504, ""), Retryable},
		{"gateway on DELETE", compute, "DELETE", answer(502, ""), Retryable},
		{"gateway on POST", compute, "POST", answer(503, ""), Ambiguous},
		{"not implemented", compute, "POST", answer(501, ""), Permanent},
		{"lost answer of POST", compute, "POST", lost, Ambiguous},
		{"lost answer of PUT", keyManager, "PUT", lost, Ambiguous},
		{"lost answer of GET", compute, "GET", lost, Retryable},
		{"deadline on POST", compute, "POST", &url.Error{Op: "Post", URL: "u", Err: context.DeadlineExceeded}, Ambiguous},
		{"no connection for POST", compute, "POST", refused, Retryable},
		{"foreign host", compute, "GET", &url.Error{Op: "Get", URL: "u", Err: &hostError{errors.New("no")}}, Permanent},
		{"broken body of ours", image, "PUT", &url.Error{Op: "Put", URL: "u", Err: &bodyError{io.ErrUnexpectedEOF}}, Permanent},
		{"no renewal: gone", compute, "POST", &gophercloud.ErrUnableToReauthenticate{ErrOriginal: answer(401, ""), ErrReauth: answer(404, "")}, Forbidden},
		{"no renewal: Keystone down", compute, "POST", &gophercloud.ErrUnableToReauthenticate{ErrOriginal: answer(401, ""), ErrReauth: answer(503, "")}, Retryable},
	} {
		t.Run(row.name, func(t *testing.T) {
			err := classify(request{service: row.service, method: row.method, op: "doing"}, row.err)
			if got := KindOf(fmt.Errorf("wrapped: %w", err)); got != row.want {
				t.Errorf("%q, want %q (%v)", got, row.want, err)
			}
		})
	}
	if KindOf(nil) != "" || KindOf(errors.New("x")) != Permanent || KindOf(context.Canceled) != Retryable {
		t.Error("errors that are not of a cloud are classified wrongly")
	}
}

// TestErrorsKeepSecrets shows that what Keystone and Barbican say never becomes part of an error, and what the others say
// only as one bounded, printable line.
func TestErrorsKeepSecrets(t *testing.T) {
	const canary = "canary-7d1f"
	for _, svc := range []service{identity, keyManager} {
		err := classify(request{service: svc, method: "POST", op: "storing"}, gophercloud.ErrUnexpectedResponseCode{
			Actual: 400, Body: []byte(`{"error": {"message": "` + canary + `"}}`), URL: "http://x/" + canary, ResponseHeader: http.Header{},
		})
		if strings.Contains(fmt.Sprintf("%v %+v", err, err), canary) {
			t.Errorf("%s: %v carries the body", svc.name, err)
		}
	}
	long := `{"badRequest": {"message": "one\ntwo ` + strings.Repeat("é", 5000) + `"}}`
	err := classify(request{service: compute, method: "POST", op: "creating server", object: "s"}, gophercloud.ErrUnexpectedResponseCode{
		Actual: 400, Body: []byte(long), ResponseHeader: http.Header{"X-Openstack-Request-Id": {"req-00000000-0000-4000-8000-000000000000"}},
	})
	if s := err.Error(); len(s) > 500 || strings.ContainsAny(s, "\né") || !strings.Contains(s, "badRequest: one two") || !strings.Contains(s, "req-00000000") {
		t.Errorf("error text is %q", s)
	}
}
