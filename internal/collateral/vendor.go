package collateral

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/eosc-siesta/siestad/internal/attest"
)

// VendorError is an answer that is no object.
type VendorError struct {
	Status     int
	RetryAfter time.Duration
	// Absent: the vendor knows no such thing.
	Absent bool
}

func (e *VendorError) Error() string { return fmt.Sprintf("the vendor answered %d", e.Status) }

const (
	maxAnswer    = 1 << 20
	fetchTimeout = 15 * time.Second
)

// HTTPVendor speaks to AMD's key distribution service and Intel's provisioning certification service, or to mirrors of
// them. An empty URL is never asked. What they answer is believed in nothing: it is proved before it is stored.
type HTTPVendor struct {
	// KDS is AMD's (AMD 57230 chapter 4), such as https://kdsintf.amd.com.
	KDS string
	// PCS is Intel's (PCS API v4), such as https://api.trustedservices.intel.com; RootCRL the address of the root's list.
	PCS, RootCRL string
	// Client must not follow redirects to other hosts; nil: one that follows none.
	Client *http.Client
	Now    func() time.Time
	// Timeout bounds a request with its body. Default 15 seconds.
	Timeout time.Duration
}

var errNotConfigured = errors.New("no address is configured for this kind")

// address says where an object is, and in which header its issuer chain comes.
func (v *HTTPVendor) address(of attest.Subject) (address, chainHeader string, err error) {
	amd, intel := strings.TrimSuffix(v.KDS, "/"), strings.TrimSuffix(v.PCS, "/")
	switch of.Kind {
	case attest.KindVCEK:
		parts := strings.Split(of.Key, "/")
		if len(parts) != 3 {
			return "", "", errors.New("malformed key")
		}
		var tcb attest.TCB
		if _, err := fmt.Sscanf(parts[2], "%d.%d.%d.%d.%d", &tcb.Bootloader, &tcb.TEE, &tcb.SNP, &tcb.Microcode, &tcb.FMC); err != nil {
			return "", "", errors.New("malformed key")
		}
		query := fmt.Sprintf("blSPL=%02d&teeSPL=%02d&snpSPL=%02d&ucodeSPL=%02d", tcb.Bootloader, tcb.TEE, tcb.SNP, tcb.Microcode)
		if parts[0] == attest.Turin {
			query = fmt.Sprintf("fmcSPL=%02d&", tcb.FMC) + query
		}
		address = amd + "/vcek/v1/" + parts[0] + "/" + parts[1] + "?" + query
	case attest.KindAMDCRL:
		kind := "/vcek/v1/"
		line, vlek := strings.CutSuffix(of.Key, "/vlek")
		if vlek {
			kind = "/vlek/v1/"
		}
		address = amd + kind + line + "/crl"
	case attest.KindAMDChain:
		address = amd + "/vcek/v1/" + of.Key + "/cert_chain"
	case attest.KindTCBInfo:
		address, chainHeader = intel+"/tdx/certification/v4/tcb?fmspc="+url.QueryEscape(of.Key), "TCB-Info-Issuer-Chain"
	case attest.KindQEIdentity:
		address, chainHeader = intel+"/tdx/certification/v4/qe/identity", "SGX-Enclave-Identity-Issuer-Chain"
	case attest.KindPCKCRL:
		address, chainHeader = intel+"/sgx/certification/v4/pckcrl?ca="+url.QueryEscape(of.Key)+"&encoding=der", "SGX-PCK-CRL-Issuer-Chain"
	case attest.KindIntelRootCRL:
		address = v.RootCRL
	}
	if !strings.HasPrefix(address, "http") {
		return "", "", errNotConfigured
	}
	return address, chainHeader, nil
}

// Fetch asks once; whether to ask again is the caller's.
func (v *HTTPVendor) Fetch(ctx context.Context, of attest.Subject) ([]Found, error) {
	address, chainHeader, err := v.address(of)
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", of.Kind, err)
	}
	timeout := v.Timeout
	if timeout == 0 {
		timeout = fetchTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", of.Kind, err)
	}
	client := v.Client
	if client == nil {
		client = noRedirects
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", of.Kind, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("fetching %s: %w", of.Kind, &VendorError{
			Status: resp.StatusCode, RetryAfter: v.retryAfter(resp.Header.Get("Retry-After")), Absent: resp.StatusCode == http.StatusNotFound,
		})
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", of.Kind, err)
	}
	if len(body) > maxAnswer {
		return nil, fmt.Errorf("fetching %s: more than %d bytes", of.Kind, maxAnswer)
	}
	f := Found{Object: attest.Object{Kind: of.Kind, Bytes: body}, VLEK: isVLEKs(of)}
	if chainHeader != "" {
		chain, err := url.QueryUnescape(resp.Header.Get(chainHeader))
		if err != nil {
			return nil, fmt.Errorf("fetching %s: its issuer chain is malformed", of.Kind)
		}
		f.Chain = []byte(chain)
	}
	return []Found{f}, nil
}

// noRedirects takes a redirect for the answer it is: no object.
var noRedirects = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// retryAfter reads both forms of the header (RFC 9110 section 10.2.3).
func (v *HTTPVendor) retryAfter(text string) time.Duration {
	if seconds, err := strconv.Atoi(text); err == nil && seconds >= 0 {
		return min(time.Duration(seconds)*time.Second, maxRetryWait)
	}
	if at, err := http.ParseTime(text); err == nil && v.Now != nil {
		return min(max(at.Sub(v.Now()), 0), maxRetryWait)
	}
	return 0
}
