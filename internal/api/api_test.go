package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/go-chi/chi/v5"

	"github.com/eosc-siesta/siestad/internal/api/gen"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/authz"
	"github.com/eosc-siesta/siestad/internal/flow"
	"github.com/eosc-siesta/siestad/internal/keybroker"
	"github.com/eosc-siesta/siestad/internal/permit"
	"github.com/eosc-siesta/siestad/internal/workspace"
)

// TestRoutesAreTheContract: what is served is what openapi.yaml says, no more and no less.
func TestRoutesAreTheContract(t *testing.T) {
	r := newRig(t)
	served := map[string]bool{"GET /metrics": true} // the daemon's own, on its own listener
	for _, h := range []http.Handler{r.api, r.door} {
		err := chi.Walk(h.(chi.Routes), func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
			served[method+" "+strings.Replace(route, "/v1/audit/log/*", "/v1/audit/log/{path}", 1)] = true
			return nil
		})
		must(t, err)
	}
	spec, err := openapi3.NewLoader().LoadFromFile("../../openapi.yaml")
	must(t, err)
	for path, item := range spec.Paths.Map() {
		for method := range item.Operations() {
			if !served[method+" "+path] {
				t.Errorf("%s %s is in openapi.yaml and not served", method, path)
			}
			delete(served, method+" "+path)
		}
	}
	for left := range served {
		t.Errorf("%s is served and not in openapi.yaml", left)
	}
}

// TestStory walks through everything once, as the people would.
func TestStory(t *testing.T) {
	r := newRig(t)
	op, ann, cus, aud := r.person("op", "operator"), r.person("ann", "researcher"), r.person("cus", "custodian"), r.person("aud", "auditor")

	r.want(200, person{}, "GET", "/healthz", nil)
	r.want(200, person{}, "GET", "/readyz", nil)
	var me gen.Me
	r.want(200, ann, "GET", "/v1/me", nil).into(t, &me)
	if me.Subject != ann.subject || !slices.Equal(me.Roles, []string{"researcher"}) {
		t.Errorf("me: %+v", me)
	}

	r.project("epi", ann.subject)
	created := r.want(201, cus, "POST", "/v1/datasets", map[string]any{"id": "cohort", "title": "Cohort", "version": "1"})
	if created.header.Get("Location") != "/v1/datasets/cohort" {
		t.Errorf("Location: %q", created.header.Get("Location"))
	}
	var granted gen.Permit
	r.want(201, cus, "POST", "/v1/permits", map[string]any{"project": "epi", "dataset": "cohort", "people": []string{ann.subject}, "until": until}).into(t, &granted)

	var img gen.Image
	r.want(201, op, "POST", "/v1/images", map[string]any{"name": "desktop"}).into(t, &img)
	path := "/v1/images/" + img.ID
	for _, file := range []string{"kernel", "initrd", "firmware"} {
		a := r.want(200, op, "PUT", path+"/files/"+file, strings.Repeat(file, 1000), with("Content-Type", "application/octet-stream"))
		r.want(412, op, "PUT", path+"/files/"+file, "x", with("Content-Type", "application/octet-stream"), with("If-Match", `"old"`))
		if a.header.Get("ETag") == "" {
			t.Error("no ETag after an upload")
		}
	}
	r.want(409, cus, "POST", path+"/approve", nil)
	r.want(200, op, "POST", path+"/register", nil)
	r.want(403, op, "POST", path+"/approve", nil)
	r.want(200, cus, "POST", path+"/approve", nil).into(t, &img)
	if img.State != "approved" || img.Kernel == nil || img.Kernel.Size != 6000 {
		t.Errorf("image: %+v", img)
	}

	started := r.want(202, ann, "POST", "/v1/workspaces", workspaceBody("epi", img.ID))
	var operation gen.Operation
	started.into(t, &operation)
	if started.header.Get("Location") != "/v1/operations/"+operation.ID || len(operation.Steps) != 2 || operation.Steps[0].AgeSeconds == nil {
		t.Errorf("operation: %s", started.body)
	}
	r.want(200, ann, "GET", "/v1/operations/"+operation.ID, nil)
	r.want(200, ann, "GET", "/v1/operations?workspace="+operation.Workspace, nil)
	ws := "/v1/workspaces/" + operation.Workspace
	shown := r.want(200, ann, "GET", ws, nil)
	r.want(200, ann, "GET", "/v1/workspaces?project=epi&state=creating&site=ifca", nil)
	r.want(200, ann, "GET", ws+"/explain", nil)
	r.want(202, ann, "POST", ws+"/reboot", nil)
	r.want(202, ann, "POST", ws+"/allow-reboot", nil)
	r.want(412, ann, "DELETE", ws, nil, with("If-Match", `"other"`))
	r.want(202, ann, "DELETE", ws, nil, with("If-Match", shown.header.Get("ETag")))

	var freeze gen.Freeze
	for value, row := range map[string]struct{ kind, says string }{
		"epic": {"project", "there is no project"}, "d9": {"dataset", "there is no dataset"}, "img-9": {"image", "there is no image"}, "ifac": {"site", "these are: ifca"},
		"ann": {"person", "issuer|subject"}, "Bergamo": {"product", "Milan, Genoa, Turin"}, "abc": {"chip", "128 hexadecimal digits"},
	} {
		if p := r.want(422, cus, "POST", "/v1/freezes", map[string]any{"kind": row.kind, "value": value, "reason": "stop"}).problem(t); !strings.Contains(p.Detail, row.says) {
			t.Errorf("%s %s: %q does not say %q", row.kind, value, p.Detail, row.says)
		}
	}
	r.want(201, cus, "POST", "/v1/freezes", map[string]any{"kind": "project", "value": "epi", "reason": "stop"}).into(t, &freeze)
	r.want(200, cus, "GET", "/v1/freezes/"+freeze.ID, nil)
	r.want(200, cus, "GET", "/v1/freezes", nil)
	r.want(200, cus, "POST", "/v1/freezes/"+freeze.ID+"/lift", nil)
	r.want(409, cus, "POST", "/v1/freezes/"+freeze.ID+"/lift", nil)
	r.want(200, ann, "GET", "/v1/permits", nil)
	r.want(200, cus, "GET", "/v1/permits/"+granted.ID, nil)
	r.want(200, cus, "POST", "/v1/permits/"+granted.ID+"/end", nil)
	r.want(200, ann, "GET", "/v1/datasets", nil)
	r.want(200, ann, "GET", "/v1/datasets/cohort", nil)
	r.want(200, ann, "GET", "/v1/images", nil)
	r.want(200, ann, "GET", "/v1/images?state=approved", nil)
	project := r.want(200, op, "GET", "/v1/projects/epi", nil)
	r.want(200, op, "PUT", "/v1/projects/epi/members", map[string]any{"members": []string{ann.subject, "x"}}, with("If-Match", project.header.Get("ETag")))
	r.want(412, op, "PUT", "/v1/projects/epi/members", map[string]any{"members": []string{}}, with("If-Match", project.header.Get("ETag")))
	r.want(200, op, "POST", "/v1/projects/epi/close", nil)
	r.want(200, ann, "GET", "/v1/sites", nil)
	r.want(200, ann, "GET", "/v1/sites/ifca", nil)
	r.want(200, op, "GET", "/v1/sites/ifca/preflight", nil)
	var site gen.Site
	r.want(200, ann, "GET", "/v1/sites/ifca", nil).into(t, &site)
	if site.Health != "ok" {
		t.Errorf("health after a good preflight: %s", site.Health)
	}

	var page gen.AuditPage
	r.want(200, aud, "GET", "/v1/audit/entries?limit=5&outcome=success", nil).into(t, &page)
	if len(page.Items) != 5 || page.Next == nil {
		t.Fatalf("audit page: %d items", len(page.Items))
	}
	r.want(200, aud, "GET", "/v1/audit/entries?limit=5&outcome=success&cursor="+*page.Next, nil)
	r.want(200, aud, "GET", "/v1/audit/entries/0", nil)
	receipt := r.want(200, aud, "GET", "/v1/audit/entries/0/receipt", nil)
	verifier, err := audit.NewVerifier(r.log.Key())
	must(t, err)
	record, err := r.log.Get(context.Background(), 0)
	must(t, err)
	if _, _, err := verifier.Receipt(receipt.body, record.Body); err != nil {
		t.Errorf("the receipt does not verify: %v", err)
	}
	r.want(404, aud, "GET", "/v1/audit/entries/999999", nil)
	r.want(200, ann, "GET", "/v1/audit/checkpoint", nil)
	r.want(200, ann, "GET", "/v1/audit/proofs/inclusion?index=1&size=3", nil)
	r.want(200, ann, "GET", "/v1/audit/proofs/consistency?old=2", nil)
	r.want(404, ann, "GET", "/v1/audit/proofs/inclusion?index=1&size=100000", nil)
	export := r.want(200, aud, "GET", "/v1/audit/export", nil)
	if bytes.Count(export.body, []byte("\n")) < 10 {
		t.Errorf("export: %.200s", export.body)
	}
	r.want(200, ann, "GET", "/v1/audit/log/checkpoint", nil)
	r.want(403, ann, "GET", "/v1/audit/log/tile/entries/000", nil)
	r.want(404, ann, "GET", "/v1/audit/log/tile/9/000", nil)
}

func workspaceBody(project, img string) map[string]any {
	return map[string]any{"name": "desk", "project": project, "dataset": "cohort", "image": img, "site": "ifca", "flavor": "m1", "data_gib": 10}
}

const anyULID = "01jd0000000000000000000000"

// TestMalformedRequests holds every kind of malformed request against its problem.
func TestMalformedRequests(t *testing.T) {
	r := newRig(t)
	op := r.person("op", "operator")
	good := `{"id":"epi","name":"Epi","valid_until":"2099-01-01T00:00:00Z"}`
	for _, row := range []struct {
		name, method, path, body string
		status                   int
		slug                     string
		options                  []option
	}{
		{"no token", "GET", "/v1/me", "", 401, "token-not-accepted", []option{with("Authorization", "")}},
		{"basic auth", "GET", "/v1/me", "", 401, "token-not-accepted", []option{with("Authorization", "Basic b3A6b3A=")}},
		{"no such path", "GET", "/v2/me", "", 404, "not-found", nil},
		{"no such method", "PATCH", "/v1/projects", "", 405, "method-not-allowed", nil},
		{"no key", "POST", "/v1/projects", good, 400, "idempotency-key-required", []option{with("Idempotency-Key", "")}},
		{"short key", "POST", "/v1/projects", good, 400, "malformed-request", []option{with("Idempotency-Key", "x")}},
		{"no If-Match", "DELETE", "/v1/workspaces/" + anyULID, "", 428, "if-match-required", []option{with("If-Match", "")}},
		{"unknown query", "GET", "/v1/projects?sort=name", "", 400, "malformed-request", nil},
		{"bad limit", "GET", "/v1/projects?limit=100000", "", 400, "malformed-request", nil},
		{"limit no number", "GET", "/v1/projects?limit=ten", "", 400, "malformed-request", nil},
		{"bad id", "GET", "/v1/workspaces/UPPER", "", 400, "malformed-request", nil},
		{"bad cursor", "GET", "/v1/projects?cursor=abc", "", 400, "cursor-unknown", nil},
		{"no body", "POST", "/v1/projects", "", 400, "malformed-request", nil},
		{"not JSON", "POST", "/v1/projects", "{", 400, "malformed-request", nil},
		{"not UTF-8", "POST", "/v1/projects", "{\"id\":\"\xff\"}", 400, "malformed-request", nil},
		{"two values", "POST", "/v1/projects", good + good, 400, "malformed-request", nil},
		{"name twice", "POST", "/v1/projects", `{"id":"a1",` + good[1:], 400, "malformed-request", nil},
		{"name twice, deep", "POST", "/v1/projects", `{"x":{"a":1,"a":2}}`, 400, "malformed-request", nil},
		{"deep", "POST", "/v1/projects", strings.Repeat("[", 100) + strings.Repeat("]", 100), 400, "malformed-request", nil},
		{"unknown field", "POST", "/v1/projects", `{"admin":true,` + good[1:], 400, "malformed-request", nil},
		{"field in other case", "POST", "/v1/projects", strings.Replace(good, `"id"`, `"ID"`, 1), 400, "malformed-request", nil},
		{"field missing", "POST", "/v1/projects", `{"id":"epi"}`, 400, "malformed-request", nil},
		{"field of another type", "POST", "/v1/projects", strings.Replace(good, `"Epi"`, `7`, 1), 400, "malformed-request", nil},
		{"time that is none", "POST", "/v1/projects", strings.Replace(good, `2099-01-01T00:00:00Z`, `soon`, 1), 400, "malformed-request", nil},
		{"other media type", "POST", "/v1/projects", good, 415, "unsupported-media-type", []option{with("Content-Type", "text/plain")}},
		{"no media type", "POST", "/v1/projects", good, 415, "unsupported-media-type", []option{with("Content-Type", "")}},
		{"too large", "POST", "/v1/projects", `{"id":"` + strings.Repeat("a", maxBody) + `"}`, 413, "too-large", nil},
		{"a body where none belongs", "POST", "/v1/projects/epi/close", `{"force":true}`, 400, "malformed-request", nil},
		{"other file", "PUT", "/v1/images/" + anyULID + "/files/rootfs", "x", 400, "malformed-request", []option{with("Content-Type", "application/octet-stream")}},
	} {
		var body any
		if row.body != "" {
			body = row.body
		}
		a := r.do(op, row.method, row.path, body, row.options...)
		p := a.problem(t)
		if a.status != row.status || p.Type != problemType+row.slug || p.Next == "" || p.Detail == "" {
			t.Errorf("%s: got %d %s (%s), want %d %s", row.name, a.status, p.Type, p.Detail, row.status, row.slug)
		}
		if a.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %s", row.name, a.header.Get("Content-Type"))
		}
		if a.status == 401 && !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer") {
			t.Errorf("%s: no challenge", row.name)
		}
	}
}

func TestRefusalsAreAudited(t *testing.T) {
	r := newRig(t)
	ann, eve, op := r.person("ann", "researcher"), r.person("eve", "researcher"), r.person("op", "operator")
	r.project("epi", ann.subject)
	var operation gen.Operation
	r.want(202, ann, "POST", "/v1/workspaces", workspaceBody("epi", anyULID)).into(t, &operation)
	ws := "/v1/workspaces/" + operation.Workspace

	// Another tenant's object and one that does not exist are not to be told apart.
	hidden := r.want(404, eve, "GET", ws, nil)
	absent := r.want(404, eve, "GET", "/v1/workspaces/"+anyULID, nil)
	strip := func(a answer) string {
		p := a.problem(t)
		p.Instance = nil
		b, err := json.Marshal(p)
		must(t, err)
		return string(b)
	}
	if strip(hidden) != strip(absent) {
		t.Errorf("hidden and absent differ:\n%s\n%s", strip(hidden), strip(absent))
	}
	if n := r.audited("workspace.get", audit.Refused, "hidden"); n != 2 {
		t.Errorf("%d entries for two hidden workspaces", n)
	}
	for _, path := range []string{"", "/explain"} {
		r.want(404, eve, "GET", ws+path, nil)
	}
	r.want(404, eve, "DELETE", ws, nil)
	r.want(404, eve, "POST", ws+"/reboot", nil)
	r.want(404, eve, "GET", "/v1/operations/"+operation.ID, nil)
	r.want(404, eve, "GET", "/v1/operations?workspace="+operation.Workspace, nil)
	r.want(404, eve, "POST", "/v1/workspaces", workspaceBody("epi", anyULID))

	// A colleague sees it and may not delete it; the answer says so.
	bob := r.person("bob", "researcher")
	r.want(200, op, "PUT", "/v1/projects/epi/members", map[string]any{"members": []string{ann.subject, bob.subject}})
	r.want(200, bob, "GET", ws, nil)
	if p := r.want(403, bob, "DELETE", ws, nil).problem(t); p.Code == nil || *p.Code != "policy" {
		t.Errorf("code: %v", p.Code)
	}
	if n := r.audited("workspace.delete", audit.Refused, "policy"); n != 1 {
		t.Errorf("%d entries for a refused deletion", n)
	}
	r.want(403, bob, "POST", "/v1/projects", map[string]any{"id": "mine", "name": "Mine", "valid_until": until})
	if n := r.audited("project.create", audit.Refused, "policy"); n != 1 {
		t.Errorf("%d entries for a refused project", n)
	}

	// Refusals of services are audited as well.
	r.workspaces.fail = &workspace.Refused{Facts: []permit.NamedFact{{Name: "permit", Fact: permit.Fact{Why: "there is no live permit", Fix: "the custodian grants one"}}}}
	p := r.want(403, ann, "POST", "/v1/workspaces", workspaceBody("epi", anyULID)).problem(t)
	if p.Code == nil || *p.Code != "permit" || p.Facts == nil || len(*p.Facts) != 1 {
		t.Errorf("facts: %+v", p)
	}
	if n := r.audited("workspace.create", audit.Refused, "permit"); n != 1 {
		t.Errorf("%d entries for a missing permit", n)
	}

	// One person registering and approving.
	both := r.person("both", "operator", "custodian")
	var img gen.Image
	r.want(201, both, "POST", "/v1/images", map[string]any{"name": "x"}).into(t, &img)
	for _, file := range []string{"kernel", "initrd", "firmware"} {
		r.want(200, both, "PUT", "/v1/images/"+img.ID+"/files/"+file, "bytes of "+file, with("Content-Type", "application/octet-stream"))
	}
	r.want(200, both, "POST", "/v1/images/"+img.ID+"/register", nil)
	if p := r.want(403, both, "POST", "/v1/images/"+img.ID+"/approve", nil).problem(t); p.Type != problemType+"self-approval" {
		t.Errorf("self approval: %s", p.Type)
	}
	if n := r.audited("image.approve", audit.Refused, "self-approval"); n != 1 {
		t.Errorf("%d entries for a self approval", n)
	}

	// Tokens are refused in aggregate: a flood costs one entry.
	for range 50 {
		r.want(401, person{token: "x.y.z"}, "GET", "/v1/me", nil)
	}
	id := r.server.flushOnce(context.Background())
	if r.server.flushOnce(context.Background()) != 0 {
		t.Error("an entry about nothing")
	}
	_, _, err := r.log.WaitID(context.Background(), id)
	must(t, err)
	if n := r.audited("token.verify", audit.Refused, "token"); n != 1 {
		t.Errorf("%d entries for 50 bad tokens", n)
	}
}

func TestListsShowOnlyWhatIsOnes(t *testing.T) {
	r := newRig(t)
	ann, eve, op, nobody := r.person("ann", "researcher"), r.person("eve", "researcher"), r.person("op", "operator"), r.person("new")
	cus, other := r.person("cus", "custodian"), r.person("other", "custodian")
	r.project("epi", ann.subject)
	r.want(202, ann, "POST", "/v1/workspaces", workspaceBody("epi", anyULID))
	r.want(201, cus, "POST", "/v1/datasets", map[string]any{"id": "cohort", "title": "Cohort", "version": "1"})
	r.want(201, cus, "POST", "/v1/permits", map[string]any{"project": "epi", "dataset": "cohort", "people": []string{ann.subject}, "until": until})
	for path, counts := range map[string]map[*person]int{
		"/v1/workspaces":             {&ann: 1, &eve: 0, &op: 1, &cus: 0},
		"/v1/workspaces?project=epi": {&ann: 1, &eve: 0, &op: 1},
		"/v1/projects":               {&ann: 1, &eve: 0, &op: 1, &cus: 1},
		"/v1/permits":                {&ann: 1, &eve: 0, &op: 1, &cus: 1, &other: 0},
	} {
		for who, want := range counts {
			var page struct{ Items []any }
			r.want(200, *who, "GET", path, nil).into(t, &page)
			if len(page.Items) != want {
				t.Errorf("%s as %s: %d items, want %d", path, who.subject, len(page.Items), want)
			}
		}
	}
	r.want(403, nobody, "GET", "/v1/workspaces", nil)
	r.want(403, op, "GET", "/v1/audit/entries", nil)
	r.want(403, other, "POST", "/v1/permits", map[string]any{"project": "epi", "dataset": "cohort", "people": []string{ann.subject}, "until": until})
}

func TestPagesAndCursors(t *testing.T) {
	r := newRig(t)
	op, op2 := r.person("op", "operator"), r.person("op2", "operator")
	for i := range 7 {
		r.project(fmt.Sprintf("p%d", i), "x")
	}
	var seen []string
	var cursor string
	for {
		var page gen.ProjectPage
		r.want(200, op, "GET", "/v1/projects?limit=3"+cursor, nil).into(t, &page)
		for _, p := range page.Items {
			seen = append(seen, p.ID)
		}
		if page.Next == nil {
			break
		}
		cursor = "&cursor=" + *page.Next
	}
	if len(seen) != 7 || !slices.IsSorted(seen) {
		t.Errorf("pages: %v", seen)
	}
	r.want(400, op2, "GET", "/v1/projects?limit=3"+cursor, nil)                                                // another caller's
	r.want(400, op, "GET", "/v1/datasets?limit=3"+cursor, nil)                                                 // another list's
	r.want(400, op, "GET", "/v1/projects?limit=3"+cursor[:len(cursor)-1]+string(cursor[len(cursor)-1]^1), nil) // made up
}

func TestIdempotency(t *testing.T) {
	r := newRig(t)
	ann := r.person("ann", "researcher")
	r.project("epi", ann.subject)
	key := with("Idempotency-Key", "the-same-key")
	body := workspaceBody("epi", anyULID)
	first := r.want(202, ann, "POST", "/v1/workspaces", body, key)
	again := r.want(202, ann, "POST", "/v1/workspaces", body, key)
	if !bytes.Equal(first.body, again.body) || first.header.Get("Location") != again.header.Get("Location") || r.workspaces.made != 1 {
		t.Errorf("repeated:\n%s\n%s\nmade %d", first.body, again.body, r.workspaces.made)
	}
	// What is kept of a request is nothing that guesses of its body could be tried on.
	raw, err := json.Marshal(body)
	must(t, err)
	plain := sha256.Sum256(raw)
	var kept []byte
	must(t, r.db.QueryRow(context.Background(), `SELECT body_hash FROM idempotency WHERE key = 'the-same-key'`).Scan(&kept))
	if len(kept) != sha256.Size || bytes.Equal(kept, plain[:]) {
		t.Errorf("kept of the request: %x", kept)
	}
	body["data_gib"] = 11
	if p := r.want(422, ann, "POST", "/v1/workspaces", body, key).problem(t); p.Type != problemType+"idempotency-key-reused" {
		t.Error(p.Type)
	}
	// Another person's same key is another key.
	r.project("bob", r.issuer.url+"|bob")
	r.want(202, r.person("bob", "researcher"), "POST", "/v1/workspaces", workspaceBody("bob", anyULID), key)

	// A failure stores nothing.
	key = with("Idempotency-Key", "another-key")
	r.workspaces.fail = workspace.ErrBusy
	r.want(409, ann, "POST", "/v1/workspaces", body, key)
	r.workspaces.fail = nil
	r.want(202, ann, "POST", "/v1/workspaces", body, key)

	// Two at once: one works, the other is told to wait.
	r.workspaces.block, r.workspaces.began = make(chan struct{}), make(chan struct{})
	key = with("Idempotency-Key", "a-third-key")
	var wg sync.WaitGroup
	wg.Go(func() {
		if a := r.do(ann, "POST", "/v1/workspaces", body, key); a.status != 202 {
			t.Errorf("the first of two: %d", a.status)
		}
	})
	<-r.workspaces.began
	if p := r.want(409, ann, "POST", "/v1/workspaces", body, key).problem(t); p.Type != problemType+"request-in-flight" {
		t.Error(p.Type)
	}
	close(r.workspaces.block)
	wg.Wait()

	// After a day the key is free.
	_, err = r.db.Exec(context.Background(), `UPDATE idempotency SET created_at = now() - interval '25 hours'`)
	must(t, err)
	r.workspaces.block, r.workspaces.began = nil, nil
	made := r.workspaces.made
	r.want(202, ann, "POST", "/v1/workspaces", body, key)
	if r.workspaces.made != made+1 {
		t.Error("a key of yesterday still answers")
	}
}

// TestNothingLeaks: what goes wrong here is told by id alone.
func TestNothingLeaks(t *testing.T) {
	r := newRig(t)
	ann := r.person("ann", "researcher")
	r.project("epi", ann.subject)
	const canary = "hunter2-secret"
	for err, want := range map[error]int{
		errors.New(canary): 500,
		fmt.Errorf("%s: %w", canary, context.DeadlineExceeded): 503,
		fmt.Errorf("%s: %w", canary, errAuditBehind):           503,
	} {
		r.workspaces.fail = err
		a := r.want(want, ann, "POST", "/v1/workspaces", workspaceBody("epi", anyULID))
		if bytes.Contains(a.body, []byte(canary)) {
			t.Errorf("leaked: %s", a.body)
		}
	}
	a := r.want(400, ann, "POST", "/v1/workspaces", map[string]any{"name": canary, "password": canary})
	if bytes.Contains(a.body, []byte(canary)) {
		t.Errorf("the validator repeats what was sent: %s", a.body)
	}
	r.workspaces.fail = fmt.Errorf("rebooting: %w", flow.ErrBusy)
	r.want(409, ann, "POST", "/v1/workspaces", workspaceBody("epi", anyULID))
}

func TestPanicBecomesProblem(t *testing.T) {
	r := newRig(t)
	r.server.cfg.Ready = func(context.Context) error { panic("boom with a secret") }
	a := r.do(person{}, "GET", "/readyz", nil)
	if a.status != 500 || bytes.Contains(a.body, []byte("boom")) {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestRateLimit(t *testing.T) {
	now := start
	l := newLimiter(func() time.Time { return now }, ratePerSecond, rateBurst)
	for range rateBurst {
		if l.take("ann") != 0 {
			t.Fatal("refused within the burst")
		}
	}
	if l.take("ann") == 0 {
		t.Error("not limited after the burst")
	}
	if l.take("bob") != 0 {
		t.Error("one caller's burst is another's limit")
	}
	now = now.Add(time.Second)
	if l.take("ann") != 0 {
		t.Error("still limited a second later")
	}
}

// TestDoor: a refused guest learns an id and nothing else.
func TestDoor(t *testing.T) {
	r := newRig(t)
	guest := person{}
	challenge := `{"workspace":"01jd0000000000000000000000","generation":1,"purpose":"unlock"}`
	event := fmt.Sprintf(`{"seq":1,"stage":"ready","header_hash":"","detail":"","signature":%q}`, strings.Repeat("A", 86)+"==")
	r.want(200, guest, "POST", "/v1/challenges", challenge)
	r.want(200, guest, "POST", "/v1/guests/lease1/events", event)
	r.want(400, guest, "POST", "/v1/challenges", `{"workspace":"x","workspace":"y","generation":1,"purpose":"unlock"}`)
	r.want(400, guest, "POST", "/v1/grants", `{}`)
	r.want(413, guest, "POST", "/v1/challenges", strings.Repeat(" ", 2000))
	for code, status := range map[string]int{"measurement": 403, "permit": 403, keybroker.CodeRate: 429} {
		r.broker.err = &keybroker.Refusal{ID: "d1234", Code: code, Detail: "the reason is nobody's business"}
		a := r.want(status, guest, "POST", "/v1/challenges", challenge)
		if !bytes.Contains(a.body, []byte("d1234")) || bytes.Contains(a.body, []byte("reason")) || bytes.Contains(a.body, []byte(code)) {
			t.Errorf("%s: %s", code, a.body)
		}
	}
	r.broker.err = fmt.Errorf("fetching the blob: %w", keybroker.ErrBusy)
	if a := r.want(503, guest, "POST", "/v1/challenges", challenge); a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	r.broker.err = errors.New("database on fire")
	if a := r.want(500, guest, "POST", "/v1/challenges", challenge); bytes.Contains(a.body, []byte("fire")) {
		t.Errorf("leaked: %s", a.body)
	}
	// The two listeners serve nothing of each other.
	w := r.do(r.person("op", "operator"), "GET", "/healthz", nil)
	if w.status != 200 {
		t.Error(w.status)
	}
	for _, path := range []string{"/v1/me", "/v1/workspaces", "/healthz", "/metrics"} {
		rec := serve(r.door, "GET", path)
		if rec != 404 {
			t.Errorf("the guests' door answers %d to %s", rec, path)
		}
	}
	if got := serve(r.api, "POST", "/v1/challenges"); got != 404 {
		t.Errorf("the API answers %d to a guest", got)
	}
}

func TestErrorTable(t *testing.T) {
	kinds := []kind{
		kindMalformed, kindNoKey, kindCursor, kindToken, kindForbidden, kindFacts, kindDoor, kindDoorBusy, kindSelf, kindNotAuthor, kindWider, kindNotKept, kindNotCustodian,
		kindNotFound, kindMethod, kindExists, kindState, kindBusy, kindInFlight, kindStale, kindTooLarge, kindMediaType, kindInvalid,
		kindKeyReused, kindNoIfMatch, kindRate, kindInternal, kindDatabase, kindTimeout, kindAuditLog, kindIssuer, kindSite, kindSiteFull, kindNotReady,
	}
	seen := map[string]bool{}
	for _, k := range kinds {
		if seen[k.slug] || k.slug == "" || k.title == "" || k.next == "" || k.status < 400 {
			t.Errorf("row %q is double or incomplete", k.slug)
		}
		seen[k.slug] = true
		if k.status >= 500 && k.open && k.slug != kindDoorBusy.slug {
			t.Errorf("row %q would show the text of a failure", k.slug)
		}
	}
	for _, s := range sentinels {
		if got := problemOf(fmt.Errorf("doing something: %w", s.err)); got.slug != s.kind.slug {
			t.Errorf("%v becomes %s, want %s", s.err, got.slug, s.kind.slug)
		}
	}
}

// TestOperationsAreKnown: what handlers ask authz about exists there, or everybody would be denied for ever.
func TestOperationsAreKnown(t *testing.T) {
	known := authz.Operations()
	for _, op := range []authz.Operation{"workspace.create", "workspace.explain", "operation.get", "permit.end", "freeze.lift", "image.upload", "site.preflight", "audit.read"} {
		if !slices.Contains(known, op) {
			t.Errorf("%s is unknown", op)
		}
	}
}
