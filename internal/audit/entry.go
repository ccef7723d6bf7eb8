package audit

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Kind says what sort of actor acted.
type Kind string

// The kinds of actor.
const (
	Person  Kind = "person"
	Service Kind = "service"
	Guest   Kind = "guest"
	System  Kind = "system"
)

// Outcome says how an action ended.
type Outcome string

// The outcomes of an action.
const (
	Success Outcome = "success"
	Refused Outcome = "refused"
	Failed  Outcome = "failed"
)

// Actor is who acted. Subject and Name may name a person: they enter the log
// as commitments only.
type Actor struct {
	Kind    Kind
	Subject string // issuer + "|" + sub, or guest/<workspace>
	Name    string // for display, may be empty
}

// Entry is one event to record.
type Entry struct {
	Actor   Actor
	Action  string  // verb of the service, such as workspace.create
	Object  string  // what it was done to, such as workspace/01j…
	Project string  // may be empty
	Outcome Outcome // must be set
	Code    string  // stable code of a refusal or failure
	Request string  // request id
	// Details are small facts for an auditor: no secrets, no personal data.
	Details map[string]any
	// Personal are facts about people: each enters as a salted commitment, and
	// what opens it can be deleted.
	Personal map[string]string
}

// ID names an entry before it has a leaf index, and stands in its body: see span.
type ID int64

// Bounds of an entry. A leaf must also fit the 16-bit length of an entry bundle.
const (
	schemaVersion = 2 // 1 had no id
	maxBody       = 16 << 10
	maxField      = 512
	maxPersonal   = 32
	saltSize      = 16
)

// body is the canonical form: these fields in this order, maps sorted by key.
// A change of meaning needs a new schema version; old bodies are never rewritten.
type body struct {
	Version  int               `json:"v"`
	ID       ID                `json:"id,string"` // no two leaves have the same
	Time     string            `json:"time"`
	Actor    bodyActor         `json:"actor"`
	Action   string            `json:"action"`
	Object   string            `json:"object"`
	Project  string            `json:"project,omitempty"`
	Outcome  Outcome           `json:"outcome"`
	Code     string            `json:"code,omitempty"`
	Request  string            `json:"request,omitempty"`
	Details  map[string]any    `json:"details,omitempty"`
	Personal map[string]string `json:"personal,omitempty"`
}

// bodyActor carries commitments in Subject and Name.
type bodyActor struct {
	Kind    Kind   `json:"kind"`
	Subject string `json:"subject,omitempty"`
	Name    string `json:"name,omitempty"`
}

// opening is what opens one commitment.
type opening struct {
	Salt  []byte `json:"salt"`
	Value string `json:"value"`
}

// Keys of the actor's openings; those of Personal have the prefix personal.
const (
	openSubject  = "actor.subject"
	openName     = "actor.name"
	openPersonal = "personal."
)

// sealed is an entry ready to be stored.
type sealed struct {
	id                               ID
	at                               time.Time
	action, object, project, outcome string
	body                             []byte
	openings                         []byte // nil if nothing personal was in it
	mac                              []byte
}

// commitmentLabel keeps a commitment from being mistaken for any other hash.
const commitmentLabel = "siesta/audit-commitment/v1"

// commit returns the commitment to a value as it stands in a body: SHA-256
// over label, field, salt and value, each preceded by its length.
func commit(field string, salt []byte, value string) string {
	buf := make([]byte, 0, 4*8+len(commitmentLabel)+len(field)+len(salt)+len(value))
	for _, part := range []string{commitmentLabel, field, string(salt), value} {
		buf = binary.BigEndian.AppendUint64(buf, uint64(len(part)))
		buf = append(buf, part...)
	}
	sum := sha256.Sum256(buf)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// seal checks an entry, replaces what is personal by commitments and gives the
// canonical bytes.
func (e Entry) seal(id ID, now time.Time) (sealed, error) {
	if err := e.check(); err != nil {
		return sealed{}, fmt.Errorf("sealing audit entry: %w", err)
	}
	now = now.UTC().Truncate(time.Microsecond)
	b := body{
		Version: schemaVersion, ID: id, Time: now.Format(timeLayout), Actor: bodyActor{Kind: e.Actor.Kind},
		Action: e.Action, Object: e.Object, Project: e.Project, Outcome: e.Outcome,
		Code: e.Code, Request: e.Request, Details: e.Details,
	}
	openings := make(map[string]opening, 2+len(e.Personal))
	conceal := func(field, value string) string {
		if value == "" {
			return ""
		}
		salt := make([]byte, saltSize)
		rand.Read(salt) // never fails: the runtime ends the program instead
		openings[field] = opening{salt, value}
		return commit(field, salt, value)
	}
	b.Actor.Subject = conceal(openSubject, e.Actor.Subject)
	b.Actor.Name = conceal(openName, e.Actor.Name)
	if len(e.Personal) > 0 {
		b.Personal = make(map[string]string, len(e.Personal))
		for _, field := range slices.Sorted(maps.Keys(e.Personal)) {
			b.Personal[field] = conceal(openPersonal+field, e.Personal[field])
		}
	}
	s := sealed{id: id, at: now, action: e.Action, object: e.Object, project: e.Project, outcome: string(e.Outcome)}
	var err error
	if s.body, err = encode(b); err != nil {
		return sealed{}, fmt.Errorf("sealing audit entry: %w", err)
	}
	if len(openings) > 0 {
		if s.openings, err = encode(openings); err != nil {
			return sealed{}, fmt.Errorf("sealing audit entry: %w", err)
		}
	}
	return s, nil
}

// idOf reads the id from the canonical bytes of an entry, without reading the
// rest; 0 where there is none.
func idOf(body []byte) ID {
	rest, ok := bytes.CutPrefix(body, []byte(`{"v":2,"id":"`))
	digits, _, end := bytes.Cut(rest, []byte(`"`))
	id, err := strconv.ParseInt(string(digits), 10, 64)
	if !ok || !end || err != nil {
		return 0
	}
	return ID(id)
}

const timeLayout = "2006-01-02T15:04:05.000000Z"

func encode(v any) ([]byte, error) {
	var buf bytes.Buffer
	encoder := json.NewEncoder(&buf)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return nil, err
	}
	out := bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
	if len(out) > maxBody {
		return nil, fmt.Errorf("%d bytes are more than the %d an entry may have", len(out), maxBody)
	}
	return out, nil
}

func (e Entry) check() error {
	switch e.Actor.Kind {
	case Person, Service, Guest, System:
	default:
		return fmt.Errorf("actor kind %q is unknown", e.Actor.Kind)
	}
	switch e.Outcome {
	case Success, Refused, Failed:
	default:
		return fmt.Errorf("outcome %q is unknown", e.Outcome)
	}
	if e.Action == "" || e.Object == "" {
		return errors.New("action and object must be set")
	}
	if e.Actor.Subject == "" && e.Actor.Kind != System {
		return errors.New("actor has no subject")
	}
	if len(e.Personal) > maxPersonal {
		return fmt.Errorf("%d personal fields are more than %d", len(e.Personal), maxPersonal)
	}
	for name, value := range map[string]string{
		"action": e.Action, "object": e.Object, "project": e.Project, "code": e.Code,
		"request": e.Request, "actor subject": e.Actor.Subject, "actor name": e.Actor.Name,
	} {
		if err := checkText(name, value); err != nil {
			return err
		}
	}
	for name, value := range e.Personal {
		if name == "" {
			return errors.New("a personal field has no name")
		}
		if err := errors.Join(checkText("personal field's name", name), checkText("personal field "+name, value)); err != nil {
			return err
		}
	}
	return nil
}

// checkText keeps out what the database's text type or a terminal would not
// take as it is. The value is not repeated: it may be personal.
func checkText(name, value string) error {
	if len(value) > maxField {
		return fmt.Errorf("%s has %d bytes, more than %d", name, len(value), maxField)
	}
	if !utf8.ValidString(value) || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Errorf("%s has characters that are not text", name)
	}
	return nil
}
