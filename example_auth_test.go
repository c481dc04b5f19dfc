package rpcx_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"

	"example.com/rpcx"
)

// Each request carries a token beside its params. The middleware checks the token, and puts
// the user into the context of the handler.
func Example_tokenInRequests() {
	type userKey struct{}
	users := map[[sha256.Size]byte]string{sha256.Sum256([]byte("open sesame")): "Ada"}
	authenticated := func(next rpcx.Handler) rpcx.Handler {
		return rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
			var token string
			_ = json.Unmarshal(req.Meta("token"), &token) // stays "" without a token
			user, ok := users[sha256.Sum256([]byte(token))]
			if !ok {
				return nil, &rpcx.Error{Code: 401, Message: "the token is missing or unknown", Cost: 500}
			}
			return next.ServeRPC(context.WithValue(ctx, userKey{}, user), req)
		})
	}
	router := rpcx.NewRouter()
	router.Handle("greet", rpcx.Func(func(ctx context.Context, greeting string) string {
		return fmt.Sprint(greeting, ", ", ctx.Value(userKey{}))
	}))
	server := &rpcx.Options{Handler: router, Middleware: []func(rpcx.Handler) rpcx.Handler{authenticated}, Meta: rpcx.MemberMeta}

	withToken := func(ctx context.Context, c *rpcx.OutgoingCall) (context.Context, func(error), error) {
		c.SetMeta("token", "open sesame")
		return ctx, nil, nil
	}
	client := &rpcx.Options{Meta: rpcx.MemberMeta}
	client.OnCall = append(client.OnCall, withToken)

	for _, opts := range []*rpcx.Options{client, nil} {
		s, peer := rpcx.Pipe(opts, server)
		fmt.Println(rpcx.Call[string](context.Background(), s, "greet", rpcx.Args{"Hello"}))
		s.Close()
		peer.Close()
	}
	// Output:
	// Hello, Ada <nil>
	//  the token is missing or unknown (code 401)
}

// A login of two steps: the server sends a nonce, and the client proves that it knows the
// secret, without sending the secret. There is one try for each nonce.
func ExampleSession_Admit_twoSteps() {
	type nonceKey struct{}
	prove := func(secret, nonce string) []byte {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte(nonce))
		return mac.Sum(nil)
	}
	const secret = "open sesame"
	gate := rpcx.NewRouter() // handles one message at a time
	gate.Handle("hello", rpcx.Func(func(s *rpcx.Session) string {
		nonce := rand.Text()
		s.SetValue(nonceKey{}, nonce)
		return nonce
	}))
	gate.Handle("login", rpcx.Func(func(s *rpcx.Session, proof []byte) error {
		nonce, ok := s.Value(nonceKey{}).(string)
		s.SetValue(nonceKey{}, nil)
		if !ok || !hmac.Equal(proof, prove(secret, nonce)) {
			return rpcx.ReplyAndDisconnect(rpcx.Errorf(401, "wrong proof"))
		}
		s.Admit()
		return nil
	}))
	ctx := context.Background()
	for _, known := range []string{secret, "abracadabra"} {
		s, server := rpcx.Pipe(nil, &rpcx.Options{Gate: gate, Handler: exampleMethods()})
		nonce, err := rpcx.Call[string](ctx, s, "hello", nil)
		if err == nil {
			err = s.Call(ctx, "login", rpcx.Args{prove(known, nonce)}, nil)
		}
		fmt.Println("login:", err)
		if err == nil {
			fmt.Println(rpcx.Call[string](ctx, s, "echo", rpcx.Args{"Howdy"}))
		}
		s.Close()
		server.Close()
	}
	// Output:
	// login: <nil>
	// Howdy <nil>
	// login: wrong proof (code 401)
}

// The certificate of a client says who the client is. Who has none ends before the session.
func Example_clientCertificate() {
	certs := newExampleCertificates("Ada")
	router := rpcx.NewRouter()
	router.Handle("whoami", rpcx.Func(func(s *rpcx.Session) string {
		state := s.NetConn().(*tls.Conn).ConnectionState()
		return state.PeerCertificates[0].Subject.CommonName // verified: see ClientAuth
	}))
	srv := &rpcx.Server{
		Options: rpcx.Options{Handler: router},
		TLS: &tls.Config{
			Certificates: []tls.Certificate{certs.server},
			ClientAuth:   tls.RequireAndVerifyClientCert,
			ClientCAs:    certs.authorities, // of the clients, and of nobody else
		},
	}
	l, err := rpcx.Listen(context.Background(), "tls://127.0.0.1:0", srv.TLS)
	if err != nil {
		fmt.Println(err)
		return
	}
	go srv.Serve(l)
	defer srv.Close()

	for _, own := range [][]tls.Certificate{{certs.client}, nil} {
		d := rpcx.Dialer{TLS: &tls.Config{RootCAs: certs.authorities, Certificates: own}}
		s, err := d.Dial(context.Background(), "tls://"+l.Addr().String(), nil)
		if err != nil {
			fmt.Println(err)
			return
		}
		user, err := rpcx.Call[string](context.Background(), s, "whoami", nil)
		refused := errors.Is(err, rpcx.ErrConnectionLost) // "remote error: tls: certificate required"
		fmt.Printf("user %q, refused: %t\n", user, refused)
		s.Close()
	}
	// Output:
	// user "Ada", refused: false
	// user "", refused: true
}

// exampleCertificates holds the certificates of a server at 127.0.0.1 and of a client, and
// the authority that has signed both.
type exampleCertificates struct {
	server, client tls.Certificate
	authorities    *x509.CertPool
}

func newExampleCertificates(client string) exampleCertificates {
	root := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true}
	authority := sign(root, nil)
	root.Raw = authority.Certificate[0]
	pool := x509.NewCertPool()
	parsed, err := x509.ParseCertificate(root.Raw)
	if err != nil {
		panic(err)
	}
	pool.AddCert(parsed)
	return exampleCertificates{
		server:      sign(&x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}, &authority),
		client:      sign(&x509.Certificate{Subject: pkix.Name{CommonName: client}}, &authority),
		authorities: pool,
	}
}

// sign makes a certificate, signed by the authority, or by itself if authority is nil.
func sign(template *x509.Certificate, authority *tls.Certificate) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template.NotAfter = time.Now().Add(time.Hour)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	parent, signer := template, any(key)
	if authority != nil {
		if parent, err = x509.ParseCertificate(authority.Certificate[0]); err != nil {
			panic(err)
		}
		signer = authority.PrivateKey
		template.SerialNumber = big.NewInt(2)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
