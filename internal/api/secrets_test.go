package api

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/eosc-siesta/siestad/internal/api/gen"
	"github.com/eosc-siesta/siestad/internal/audit"
)

func newSecretBody(more ...any) map[string]any {
	m := map[string]any{"project": "epi", "site": "ifca", "repository": "default", "type": "token", "tag": "one", "payload": "c2VjcmV0IGJ5dGVz"}
	for i := 0; i+1 < len(more); i += 2 {
		if m[more[i].(string)] = more[i+1]; more[i+1] == nil {
			delete(m, more[i].(string))
		}
	}
	return m
}

func TestSecrets(t *testing.T) {
	r := newRig(t)
	ann, bob, cus, dee, op := r.person("ann", "researcher"), r.person("bob", "researcher"), r.person("cus", "custodian"), r.person("dee", "custodian"), r.person("op", "operator")
	r.project("epi", ann.subject)
	r.want(201, cus, "POST", "/v1/datasets", map[string]any{"id": "cohort", "title": "Cohort", "version": "1"})

	var made gen.Secret
	created := r.want(201, ann, "POST", "/v1/secrets", newSecretBody(), with("Idempotency-Key", "first-secret"))
	created.into(t, &made)
	if created.header.Get("Location") != "/v1/secrets/"+made.ID || made.State != "live" || made.CreatedBy != ann.subject {
		t.Errorf("made: %s", created.body)
	}
	calls := r.store.calls
	again := r.want(201, ann, "POST", "/v1/secrets", newSecretBody(), with("Idempotency-Key", "first-secret"))
	if !bytes.Equal(again.body, created.body) || r.store.calls != calls {
		t.Errorf("repeated: %s, with %d calls to the key store", again.body, r.store.calls-calls)
	}
	r.want(422, ann, "POST", "/v1/secrets", newSecretBody("tag", "two"), with("Idempotency-Key", "first-secret"))
	r.want(409, ann, "POST", "/v1/secrets", newSecretBody())

	// No answer holds the payload, in any form of it.
	for _, a := range []answer{created, r.want(200, ann, "GET", "/v1/secrets/"+made.ID, nil), r.want(200, op, "GET", "/v1/secrets", nil)} {
		if bytes.Contains(a.body, []byte("c2VjcmV0IGJ5dGVz")) || bytes.Contains(a.body, []byte("secret bytes")) || bytes.Contains(a.body, []byte("payload")) {
			t.Errorf("an answer shows the payload: %s", a.body)
		}
	}

	// Whose they are.
	var custodians gen.Secret
	r.want(403, ann, "POST", "/v1/secrets", newSecretBody("dataset", "cohort", "tag", "data"))
	r.want(403, dee, "POST", "/v1/secrets", newSecretBody("dataset", "cohort", "tag", "data"))
	r.want(201, cus, "POST", "/v1/secrets", newSecretBody("dataset", "cohort", "tag", "data")).into(t, &custodians)
	r.want(403, cus, "POST", "/v1/secrets", newSecretBody("tag", "two"))
	r.want(403, op, "POST", "/v1/secrets", newSecretBody("tag", "two"))
	hidden := r.want(404, bob, "POST", "/v1/secrets", newSecretBody("tag", "two"))
	absent := r.want(404, bob, "POST", "/v1/secrets", newSecretBody("project", "nothing", "tag", "two"))
	if hidden.problem(t).Detail != absent.problem(t).Detail {
		t.Error("a hidden project and one that is not there look different")
	}
	r.want(404, bob, "GET", "/v1/secrets/"+made.ID, nil)
	r.want(404, dee, "GET", "/v1/secrets/"+custodians.ID, nil)
	r.want(200, cus, "GET", "/v1/secrets/"+custodians.ID, nil)
	r.want(200, ann, "GET", "/v1/secrets/"+custodians.ID, nil)
	r.want(403, ann, "POST", "/v1/secrets/"+custodians.ID+"/end", nil)
	r.want(403, op, "POST", "/v1/secrets/"+custodians.ID+"/end", nil)
	r.want(404, cus, "POST", "/v1/secrets/"+made.ID+"/end", nil)
	if n := r.audited("secret.create", audit.Refused, "policy") + r.audited("secret.end", audit.Refused, "policy"); n != 6 {
		t.Errorf("%d refusals are audited", n)
	}
	for who, want := range map[person]int{ann: 2, bob: 0, cus: 1, dee: 0, op: 2} {
		var page gen.SecretPage
		r.want(200, who, "GET", "/v1/secrets?project=epi", nil).into(t, &page)
		if len(page.Items) != want {
			t.Errorf("%s sees %d secrets, want %d", who.subject, len(page.Items), want)
		}
	}

	var ended gen.Secret
	r.want(200, ann, "POST", "/v1/secrets/"+made.ID+"/end", nil).into(t, &ended)
	if ended.State != "ending" || ended.EndedBy == nil || *ended.EndedBy != ann.subject || ended.EndedAt == nil || ended.Destruction == nil {
		t.Errorf("ended: %+v", ended)
	}
	r.want(409, ann, "POST", "/v1/secrets/"+made.ID+"/end", nil)
	r.want(201, ann, "POST", "/v1/secrets", newSecretBody()) // the path is free
	r.want(200, cus, "POST", "/v1/secrets/"+custodians.ID+"/end", nil)
	if n := r.audited("secret.create", audit.Success, "") + r.audited("secret.end", audit.Success, ""); n != 5 {
		t.Errorf("%d successes are audited", n)
	}
}

func TestSecretThatCannotBe(t *testing.T) {
	r := newRig(t)
	ann := r.person("ann", "researcher")
	r.project("epi", ann.subject)
	for name, row := range map[string]struct {
		status int
		body   map[string]any
	}{
		"no payload":       {400, newSecretBody("payload", nil)},
		"empty":            {400, newSecretBody("payload", "")},
		"not base64":       {400, newSecretBody("payload", "!!!!")},
		"too long":         {400, newSecretBody("payload", strings.Repeat("AAAA", 2732))},
		"a byte too long":  {422, newSecretBody("payload", strings.Repeat("AAAA", 2731))},
		"a slash":          {400, newSecretBody("tag", "a/b")},
		"dots":             {400, newSecretBody("tag", "..")},
		"unknown member":   {400, newSecretBody("key", "x")},
		"unknown site":     {422, newSecretBody("site", "nowhere")},
		"unknown dataset":  {404, newSecretBody("dataset", "nothing")},
		"no tag":           {400, newSecretBody("tag", nil)},
		"a long tag":       {400, newSecretBody("tag", strings.Repeat("a", 129))},
		"project a number": {400, newSecretBody("project", 1)},
	} {
		if a := r.do(ann, "POST", "/v1/secrets", row.body); a.status != row.status {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	r.want(400, ann, "POST", "/v1/secrets", newSecretBody(), with("Idempotency-Key", ""))
	if r.store.calls != 0 {
		t.Error("the key store was asked")
	}
	r.store.fail = errors.New("away")
	if a := r.do(ann, "POST", "/v1/secrets", newSecretBody()); a.status < 500 || bytes.Contains(a.body, []byte("away")) {
		t.Errorf("without a key store: %d %s", a.status, a.body)
	}
	r.store.fail = nil
	r.want(201, ann, "POST", "/v1/secrets", newSecretBody())
}
