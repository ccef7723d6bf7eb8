package workspace

import (
	"errors"
	"fmt"
	"time"

	"github.com/eosc-siesta/siestad/internal/flow"
	"github.com/eosc-siesta/siestad/internal/keybroker"
	"github.com/eosc-siesta/siestad/internal/openstack"
)

// How often a step looks at something that changes by itself.
const (
	pollCloud    = 2 * time.Second
	pollGuest    = time.Second
	pollCapacity = 30 * time.Second
)

// Codes of problems, stable for the API.
const (
	codeCapacity  = "capacity"
	codeCloud     = "cloud"
	codeForbidden = "credential"
	codeConfig    = "configuration"
	codeFlavor    = "flavor"
	codeImage     = "image"
	codeGuest     = "guest"
	codePolicy    = "policy"
	codeRefused   = "refused"
	codeServer    = "server"
	codeState     = "state"
)

// What can be done about an operation whose problem does not say it. A parked deletion goes on when it is asked for again;
// a parked creation does not, and a deletion takes its place.
const (
	createFailed = "delete the workspace and create another; if that fails, too, an operator looks into siestad's log"
	createParked = "an operator removes what is in the way; then delete the workspace, which takes away what is left"
	rebootFailed = "reboot the workspace again; if that fails, too, an operator looks into siestad's log"
	deleteParked = "an operator removes what is in the way, or looks into siestad's log; then ask for the deletion again"
)

// forward says what an error of the cloud means to a step that makes something. What may pass is retried until the step's
// deadline; what cannot change by itself ends the operation.
func forward(site *Site, err error) error {
	switch openstack.KindOf(err) {
	case "":
		return nil
	case openstack.Quota:
		return flow.AgainBecause(pollCapacity, noCapacity(site, err))
	case openstack.Forbidden:
		return flow.Fatal(wrap(codeForbidden, "the operator of "+site.Name+" renews siestad's credential there or gives it its role back", err))
	case openstack.Permanent:
		return flow.Fatal(wrap(codeCloud, "the operator of "+site.Name+" looks for the request id in the service's log", err))
	}
	return wrap(codeCloud, "if it lasts, the operator of "+site.Name+" looks for the request id in the service's log", err)
}

func noCapacity(site *Site, err error) *flow.Problem {
	return &flow.Problem{
		Code: codeCapacity, Detail: fmt.Sprintf("waiting for capacity at %s: %s", site.Name, err),
		Fix: "delete a workspace at " + site.Name + ", or its operator raises the quota; then try again",
	}
}

func wrap(code, fix string, err error) error {
	return &flow.Problem{Code: code, Detail: err.Error(), Fix: fix}
}

func problem(code, fix, format string, args ...any) *flow.Problem {
	return &flow.Problem{Code: code, Fix: fix, Detail: fmt.Sprintf(format, args...)}
}

// standsSuspended says of a generation that it is suspended, and why.
func standsSuspended(state keybroker.State) *flow.Problem {
	return problem(string(Suspended), "who may allow a reboot looks at the decisions and allows one, or deletes the workspace",
		"the generation is suspended%s", because(state.Reason))
}

// broken says what an error of the broker means to a step.
func broken(site *Site, err error) error {
	var refusal *keybroker.Refusal
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refusal):
		return flow.Fatal(wrap(refusal.Code, "a custodian and the operator of "+site.Name+" look at decision "+refusal.ID, err))
	case errors.Is(err, keybroker.ErrBusy):
		return flow.Again(pollGuest, "the key broker is busy")
	case errors.Is(err, keybroker.ErrDocuments):
		return flow.Fatal(wrap(codePolicy, "a custodian changes the policy documents of site "+site.Name+" or of the project; or choose another site or image", err))
	case errors.Is(err, keybroker.ErrState), errors.Is(err, keybroker.ErrShredded), errors.Is(err, keybroker.ErrNotFound):
		return flow.Fatal(wrap(codeState, "explain shows what stands against it", err))
	case openstackError(err):
		return forward(site, err)
	}
	return err
}

// openstackError tells an error that came through a key store from one of the broker's own.
func openstackError(err error) bool {
	var e *openstack.Error
	return errors.As(err, &e)
}

// absent says whether the cloud has no such thing.
func absent(err error) bool { return openstack.KindOf(err) == openstack.NotFound }
