package authz

import (
	_ "embed"
	"fmt"
	"slices"

	"github.com/cedar-policy/cedar-go"
)

// Roles that mean something here; a token's other roles are dropped.
var Roles = []string{"researcher", "custodian", "operator", "auditor"}

// Operation is the name of something that can be asked for. It is also the action of the audit entry of a refusal.
type Operation string

// groups says to which groups of policies.cedar an operation belongs. An operation that is not here is denied.
var groups = map[Operation][]string{
	"workspace.create":       nil,
	"workspace.list":         {"look"},
	"workspace.get":          {"read-project"},
	"workspace.explain":      {"read-project"},
	"workspace.delete":       {"run-workspace"},
	"workspace.reboot":       {"run-workspace"},
	"workspace.allow_reboot": {"run-workspace"},
	"operation.get":          {"read-project"},
	"project.create":         nil,
	"project.list":           {"look"},
	"project.get":            {"read-project"},
	"project.update":         nil,
	"project.close":          nil,
	"dataset.create":         nil,
	"dataset.list":           {"look"},
	"dataset.get":            {"look"},
	"permit.grant":           nil,
	"permit.list":            {"look"},
	"permit.get":             {"read-project"},
	"permit.end":             nil,
	"freeze.create":          nil,
	"freeze.list":            {"read-freeze"},
	"freeze.get":             {"read-freeze"},
	"freeze.lift":            nil,
	"secret.create":          nil,
	"secret.list":            {"look"},
	"secret.get":             {"read-project"},
	"secret.end":             nil,
	"image.create":           nil,
	"image.list":             {"look"},
	"image.get":              {"look"},
	"image.upload":           nil,
	"image.register":         nil,
	"image.approve":          nil,
	"image.withdraw":         nil,
	"endorsement.import":     nil,
	"endorsement.list":       {"look"},
	"endorsement.get":        {"look"},
	"policy.create":          nil,
	"policy.list":            {"read-policy"},
	"policy.get":             {"read-policy"},
	"policy.test":            {"read-policy"},
	"policy.propose":         nil,
	"policy.activate":        nil,
	"policy.retire":          nil,
	"decision.list":          {"read-decision"},
	"decision.get":           {"read-decision"},
	"decision.bundle":        {"read-decision"},
	"quarantine.create":      nil,
	"quarantine.list":        {"read-quarantine"},
	"quarantine.get":         {"read-quarantine"},
	"quarantine.lift":        nil,
	"floor.check":            {"read-floor"},
	"floor.list":             {"read-floor"},
	"floor.get":              {"read-floor"},
	"floor.create":           nil,
	"floor.activate":         nil,
	"site.list":              {"look"},
	"site.get":               {"look"},
	"site.preflight":         {"preflight"},
	"audit.read":             nil,
	"audit.proof":            {"look"},
}

// Operations lists every operation, in order.
func Operations() []Operation {
	var all []Operation
	for op := range groups {
		all = append(all, op)
	}
	slices.Sort(all)
	return all
}

// Principal is who asks. The zero value may do nothing.
type Principal struct {
	Subject string // issuer, a bar, sub
	Kind    string // person or service
	Roles   []string
}

// Object is what an operation is done to; fields that mean nothing for it stay empty.
type Object struct {
	Kind      string // workspace, project, …
	ID        string
	Owner     string   // who asked for the workspace, or placed the freeze
	Custodian string   // of the dataset that it is about
	Authors   []string // who made or registered the image
	Members   []string // of the project that it belongs to, or the people of the permit
}

// Engine decides. Make it with New.
type Engine struct {
	policies *cedar.PolicySet
	alone    *cedar.PolicySet // policies without own
	own      map[cedar.PolicyID]string
	actions  map[Operation]cedar.Entity
}

//go:embed policies.cedar
var policies []byte

// New reads the embedded policies.
func New() (*Engine, error) {
	list, err := cedar.NewPolicyListFromBytes("policies.cedar", policies)
	if err != nil {
		return nil, fmt.Errorf("reading the authorization policies: %w", err)
	}
	e := &Engine{
		policies: cedar.NewPolicySet(), alone: cedar.NewPolicySet(), own: map[cedar.PolicyID]string{}, actions: map[Operation]cedar.Entity{},
	}
	for _, policy := range list {
		id := cedar.PolicyID(policy.Annotations()["id"])
		if id == "" || !e.policies.Add(id, policy) {
			return nil, fmt.Errorf("reading the authorization policies: the id %q is missing or given twice", id)
		}
		if why := policy.Annotations()["own"]; why != "" && policy.Effect() == cedar.Forbid {
			e.own[id] = string(why)
		} else {
			e.alone.Add(id, policy)
		}
	}
	for op, in := range groups {
		var parents []cedar.EntityUID
		for _, g := range in {
			parents = append(parents, cedar.NewEntityUID("Action", cedar.String(g)))
		}
		e.actions[op] = cedar.Entity{UID: cedar.NewEntityUID("Action", cedar.String(op)), Parents: cedar.NewEntityUIDSet(parents...)}
	}
	return e, nil
}

// Verdict is what the policies say to a request. The zero value denies.
type Verdict struct {
	Allowed bool
	// Own says why this takes another person, where nothing but that stands in the way. Nothing is allowed by it.
	Own string
}

// Allowed is Decide for whoever need not know why not.
func (e *Engine) Allowed(p Principal, op Operation, o Object) bool { return e.Decide(p, op, o).Allowed }

// Decide allows what a policy permits and none forbids. An error in a policy's evaluation denies.
func (e *Engine) Decide(p Principal, op Operation, o Object) Verdict {
	action, known := e.actions[op]
	if !known || p.Subject == "" || o.Kind == "" {
		return Verdict{}
	}
	var roles []cedar.Value
	for _, r := range p.Roles {
		if slices.Contains(Roles, r) {
			roles = append(roles, cedar.String(r))
		}
	}
	who := cedar.Entity{UID: cedar.NewEntityUID("Principal", cedar.String(p.Subject)), Attributes: cedar.NewRecord(cedar.RecordMap{
		"subject": cedar.String(p.Subject), "kind": cedar.String(p.Kind), "roles": cedar.NewSet(roles...),
	})}
	// Only whether this principal is in a list matters, so that a project of 500 members costs no more than one of 2.
	what := cedar.Entity{UID: cedar.NewEntityUID(cedar.EntityType(o.Kind), cedar.String(o.ID)), Attributes: cedar.NewRecord(cedar.RecordMap{
		"owner": cedar.String(o.Owner), "custodian": cedar.String(o.Custodian),
		"authors": only(o.Authors, p.Subject), "members": only(o.Members, p.Subject),
	})}
	three := entities{who, what, action}
	request := cedar.Request{Principal: who.UID, Action: action.UID, Resource: what.UID, Context: cedar.NewRecord(nil)}
	decision, diagnostic := cedar.Authorize(e.policies, three, request)
	if len(diagnostic.Errors) > 0 {
		return Verdict{}
	}
	if decision == cedar.Allow {
		return Verdict{Allowed: true}
	}
	own := ""
	for _, reason := range diagnostic.Reasons {
		own = e.own[reason.PolicyID]
	}
	if own == "" {
		return Verdict{}
	}
	// A denial names the forbids alone: that another may do it, and this caller but for them, the rest must say.
	if decision, diagnostic = cedar.Authorize(e.alone, three, request); decision != cedar.Allow || len(diagnostic.Errors) > 0 {
		return Verdict{}
	}
	return Verdict{Own: own}
}

func only(list []string, subject string) cedar.Set {
	if slices.Contains(list, subject) {
		return cedar.NewSet(cedar.String(subject))
	}
	return cedar.NewSet()
}

// entities are the three of one request: a list this short is searched faster than a map is made.
type entities [3]cedar.Entity

// Get implements cedar.EntityGetter.
func (e entities) Get(uid cedar.EntityUID) (cedar.Entity, bool) {
	for _, x := range e {
		if x.UID == uid {
			return x, true
		}
	}
	return cedar.Entity{}, false
}
