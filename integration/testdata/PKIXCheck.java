import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.cert.CertPath;
import java.security.cert.CertPathValidator;
import java.security.cert.CertPathValidatorException;
import java.security.cert.CertStore;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.cert.CollectionCertStoreParameters;
import java.security.cert.CRL;
import java.security.cert.PKIXParameters;
import java.security.cert.PKIXRevocationChecker;
import java.security.cert.TrustAnchor;
import java.security.cert.X509Certificate;
import java.util.ArrayList;
import java.util.EnumSet;
import java.util.List;
import java.util.Set;

/**
 * Validates a client's certificate as a Java server does, and prints GOOD, or the reason why not.
 *
 * <p>java PKIXCheck.java ROOT CHAIN CRL... takes these CRLs and no others, for the whole chain. Without CRLs it fetches,
 * for the client's certificate, the one that the certificate names. With "ocsp" in their place it asks the OCSP responder
 * that the certificate names.
 */
public final class PKIXCheck {
    private static final CertificateFactory X509 = factory();

    public static void main(String[] args) throws Exception {
        List<X509Certificate> chain = new ArrayList<>();
        try (InputStream in = Files.newInputStream(Path.of(args[1]))) {
            for (Certificate cert : X509.generateCertificates(in)) {
                chain.add((X509Certificate) cert);
            }
        }
        X509Certificate root;
        try (InputStream in = Files.newInputStream(Path.of(args[0]))) {
            root = (X509Certificate) X509.generateCertificate(in);
        }
        CertPathValidator validator = CertPathValidator.getInstance("PKIX");
        PKIXParameters params = new PKIXParameters(Set.of(new TrustAnchor(root, null)));
        boolean ocsp = args.length > 2 && args[2].equals("ocsp");
        if (args.length > 2 && !ocsp) {
            params.addCertStore(CertStore.getInstance("Collection", new CollectionCertStoreParameters(crls(args))));
        } else {
            PKIXRevocationChecker checker = (PKIXRevocationChecker) validator.getRevocationChecker();
            Set<PKIXRevocationChecker.Option> options = EnumSet.of(
                    PKIXRevocationChecker.Option.ONLY_END_ENTITY,
                    PKIXRevocationChecker.Option.NO_FALLBACK);
            if (!ocsp) {
                options.add(PKIXRevocationChecker.Option.PREFER_CRLS);
            }
            checker.setOptions(options);
            params.addCertPathChecker(checker);
        }
        CertPath path = X509.generateCertPath(chain);
        try {
            validator.validate(path, params);
            System.out.println("GOOD");
        } catch (CertPathValidatorException e) {
            System.out.println(e.getReason() + " at " + e.getIndex() + ": " + e.getMessage());
        }
    }

    private static List<CRL> crls(String[] args) throws Exception {
        List<CRL> all = new ArrayList<>();
        for (String file : List.of(args).subList(2, args.length)) {
            try (InputStream in = Files.newInputStream(Path.of(file))) {
                all.add(X509.generateCRL(in));
            }
        }
        return all;
    }

    private static CertificateFactory factory() {
        try {
            return CertificateFactory.getInstance("X.509");
        } catch (java.security.cert.CertificateException e) {
            throw new IllegalStateException(e);
        }
    }
}
