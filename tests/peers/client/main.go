// Client asks a server of ours as Go's own clients do, and says what was wrong.
//
//	client --url http://127.0.0.1:8501 [--http1] [--ca server.crt] [--hold 0]
//
// Over http:// HTTP/2 is spoken by prior knowledge, unless --http1. With --hold N it sends N
// requests to /hold at once, and nothing else, and wants all of them answered.
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

const mib = 1 << 20

var (
	base  = flag.String("url", "", "where the server is")
	http1 = flag.Bool("http1", false, "speak HTTP/1.1")
	ca    = flag.String("ca", "", "the certificate to trust")
	hold  = flag.Int("hold", 0, "how many requests to hold")
)

func main() {
	log.SetFlags(0)
	flag.Parse()
	client := &http.Client{Transport: transport(), Timeout: 60 * time.Second}
	if *hold > 0 {
		each(*hold, func(int) error { return get(client, "/hold", []byte("released")) })
		return
	}
	check("unary", unary(client))
	check("a large body both ways", echo(client, large(), 4*mib))
	check("a body of unknown length", echo(client, io.MultiReader(large()), -1))
	check("a body with trailers", trailers(client))
	check("a stream", get(client, "/stream/3000000", pattern(3000000)))
	check("HEAD", bare(client, "HEAD", "/bytes/1234", 200, 1234))
	check("OPTIONS", bare(client, "OPTIONS", "/", 204, 0))
	check("a refusal of what is expected", refused(client))
	each(200, func(n int) error {
		size := 1 + n*331
		return get(client, fmt.Sprintf("/bytes/%d", size), pattern(size))
	})
	fmt.Println("ok")
}

func transport() http.RoundTripper {
	config := &tls.Config{}
	if *ca != "" {
		pem, err := os.ReadFile(*ca)
		check("the certificate", err)
		config.RootCAs = x509.NewCertPool()
		config.RootCAs.AppendCertsFromPEM(pem)
	}
	if *http1 {
		return &http.Transport{
			TLSClientConfig:       config,
			TLSNextProto:          map[string]func(string, *tls.Conn) http.RoundTripper{},
			ExpectContinueTimeout: 30 * time.Second,
			MaxIdleConnsPerHost:   16,
		}
	}
	if strings.HasPrefix(*base, "https:") {
		return &http2.Transport{TLSClientConfig: config}
	}
	return &http2.Transport{
		AllowHTTP: true,
		DialTLS: func(network, address string, _ *tls.Config) (net.Conn, error) {
			return net.Dial(network, address)
		},
	}
}

func unary(client *http.Client) error {
	message := []byte("\x00\x00\x00\x00\x05hello")
	request, err := http.NewRequest("POST", *base+"/unary", bytes.NewReader(message))
	if err != nil {
		return err
	}
	request.Header.Set("content-type", "application/grpc")
	request.Header.Set("te", "trailers")
	return same(client, request, message)
}

func echo(client *http.Client, body io.Reader, length int64) error {
	request, err := http.NewRequest("POST", *base+"/echo", body)
	if err != nil {
		return err
	}
	request.ContentLength = length
	return same(client, request, pattern(4*mib))
}

func trailers(client *http.Client) error {
	request, err := http.NewRequest("POST", *base+"/echo", io.MultiReader(large()))
	if err != nil {
		return err
	}
	request.Trailer = http.Header{"X-Sum": {"1"}}
	return same(client, request, pattern(4*mib))
}

// same wants the body back, and over HTTP/2 the trailers.
func same(client *http.Client, request *http.Request, want []byte) error {
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	got, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != 200 || !bytes.Equal(got, want) {
		return fmt.Errorf("status %d, %d bytes instead of %d", answer.StatusCode, len(got), len(want))
	}
	if !*http1 && answer.Trailer.Get("grpc-status") != "0" {
		return fmt.Errorf("trailers %v", answer.Trailer)
	}
	return major(answer)
}

func major(answer *http.Response) error {
	if (answer.ProtoMajor == 1) != *http1 {
		return fmt.Errorf("it speaks %s", answer.Proto)
	}
	return nil
}

func get(client *http.Client, path string, want []byte) error {
	answer, err := client.Get(*base + path)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	got, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != 200 || !bytes.Equal(got, want) {
		return fmt.Errorf("%s: status %d, %d bytes", path, answer.StatusCode, len(got))
	}
	return major(answer)
}

func bare(client *http.Client, method, path string, status int, length int64) error {
	request, err := http.NewRequest(method, *base+path, nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	got, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != status || len(got) != 0 || answer.ContentLength != length {
		return fmt.Errorf("status %d, length %d", answer.StatusCode, answer.ContentLength)
	}
	return nil
}

// refused sends a body that is not wanted, and that must not be read: it would never end.
func refused(client *http.Client) error {
	body, writer := io.Pipe()
	defer writer.Close()
	request, err := http.NewRequest("POST", *base+"/refuse", body)
	if err != nil {
		return err
	}
	request.Header.Set("Expect", "100-continue")
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	got, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != 413 || string(got) != "too large" {
		return fmt.Errorf("status %d, %q, %v", answer.StatusCode, got, err)
	}
	return nil
}

// each runs so many at once and wants all of them done.
func each(count int, one func(int) error) {
	errors := make([]error, count)
	var group sync.WaitGroup
	for n := range errors {
		group.Add(1)
		go func(n int) {
			defer group.Done()
			errors[n] = one(n)
		}(n)
	}
	group.Wait()
	for n, err := range errors {
		check(fmt.Sprintf("request %d of many", n), err)
	}
}

func pattern(size int) []byte {
	made := make([]byte, size)
	for n := range made {
		made[n] = byte(n)
	}
	return made
}

func large() io.Reader { return bytes.NewReader(pattern(4 * mib)) }

func check(what string, err error) {
	if err != nil {
		log.Fatalf("%s: %v", what, err)
	}
}
