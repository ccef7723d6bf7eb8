package api

import (
	"strings"
	"testing"
)

// TestTextsAreOneLine: what could not stand in the log is refused before anything is done, wherever it is written.
func TestTextsAreOneLine(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	all := r.person("all", "researcher", "operator", "custodian")
	r.project("epi", all.subject)
	const until, bad = "2099-01-01T00:00:00Z", "a\nb"
	workspace := func(member string) map[string]any {
		body := workspaceBody("epi", anyULID)
		body[member] = bad
		return body
	}
	document := policyBody(80)
	document["document"] = map[string]any{"version": 1, "products": []string{"Genoa", bad}}
	for _, row := range []struct {
		path, where string
		body        map[string]any
	}{
		{"freezes", "/reason", map[string]any{"kind": "product", "value": "Milan", "reason": bad}},
		{"freezes", "/reason", map[string]any{"kind": "product", "value": "Milan", "reason": "\x00"}},
		{"freezes", "/reason", map[string]any{"kind": "product", "value": "Milan", "reason": "\u009b2J"}},
		{"freezes", "/value", map[string]any{"kind": "person", "value": bad, "reason": "x"}},
		{"quarantines", "/reason", map[string]any{"kind": "product", "value": "Milan", "reason": bad}},
		{"quarantines", "/value", map[string]any{"kind": "product", "value": bad, "reason": "x"}},
		{"policies", "/note", map[string]any{"kind": "site", "scope": "ifca", "note": bad, "document": map[string]any{"version": 1}}},
		{"policies", "/document/products/1", document},
		{"images", "/name", map[string]any{"name": bad}},
		{"projects", "/name", map[string]any{"id": "new", "name": bad, "valid_until": until}},
		{"projects", "/members/1", map[string]any{"id": "new", "name": "New", "valid_until": until, "members": []string{"x", bad}}},
		{"datasets", "/title", map[string]any{"id": "set", "title": bad, "version": "1"}},
		{"datasets", "/version", map[string]any{"id": "set", "title": "Set", "version": bad}},
		{"permits", "/people/0", map[string]any{"project": "epi", "dataset": "set", "people": []string{bad}, "until": until}},
		{"workspaces", "/name", workspace("name")},
		{"workspaces", "/flavor", workspace("flavor")},
	} {
		p := r.want(422, all, "POST", "/v1/"+row.path, row.body).problem(t)
		if p.Type != problemType+"invalid" || p.Errors == nil || len(*p.Errors) != 1 || (*p.Errors)[0].Where != "body "+row.where || !strings.Contains(p.Detail, "Texts are one line") {
			t.Errorf("%s %s: %+v", row.path, row.where, p)
		}
	}
	r.want(201, all, "POST", "/v1/freezes", map[string]any{"kind": "product", "value": "Milan", "reason": "außer Betrieb – 🔒"})
}

// TestStoredTextsEndNothing: a text of more than one line that stands in the database keeps nobody from undoing what it is about.
func TestStoredTextsEndNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	cus := r.person("cus", "custodian")
	r.project("epi", "ann")
	r.want(201, cus, "POST", "/v1/datasets", map[string]any{"id": "cohort", "title": "Cohort", "version": "1"})
	const freeze, quarantine, permit = "01jd0000000000000000000001", "01jd0000000000000000000002", "01jd0000000000000000000003"
	r.sql(`INSERT INTO freeze_order (id, kind, value, reason, state, placed_by, quarantine) VALUES
		($1, 'person', E'a\nb', E'a\nb', 'live', 'op', false), ($2, 'product', 'Milan', E'a\nb', 'live', 'op', true)`, freeze, quarantine)
	r.sql(`INSERT INTO permit (id, project, dataset, people, state, until, granted_by)
		VALUES ($1, 'epi', 'cohort', ARRAY[E'a\nb'], 'live', '2099-01-01', $2)`, permit, cus.subject)
	r.want(200, cus, "POST", "/v1/freezes/"+freeze+"/lift", nil)
	r.want(200, cus, "POST", "/v1/quarantines/"+quarantine+"/lift", nil)
	r.want(200, cus, "POST", "/v1/permits/"+permit+"/end", nil)
}
