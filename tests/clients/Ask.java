// A client that the test of Java runs from its source: asks ten times, in the three ways that Java
// has, and prints the answers.

import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.ByteBuffer;
import java.nio.channels.SocketChannel;

class Ask {
    public static void main(String[] arguments) throws Exception {
        URI uri = URI.create(arguments[0]);
        for (int i = 0; i < 4; i++) {
            System.out.print(new String(uri.toURL().openStream().readAllBytes()));
        }
        HttpClient client = HttpClient.newHttpClient();
        for (int i = 0; i < 3; i++) {
            System.out.print(client.send(HttpRequest.newBuilder(uri).build(), BodyHandlers.ofString()).body());
        }
        for (int i = 0; i < 3; i++) {
            System.out.print(askByChannel(uri));
        }
    }

    static String askByChannel(URI uri) throws IOException {
        InetSocketAddress frontend = new InetSocketAddress(uri.getHost(), uri.getPort());
        try (SocketChannel channel = SocketChannel.open(frontend)) {
            channel.write(ByteBuffer.wrap("GET / HTTP/1.0\r\n\r\n".getBytes()));
            ByteBuffer answer = ByteBuffer.allocate(4096);
            while (channel.read(answer) >= 0) {}
            String text = new String(answer.array(), 0, answer.position());
            return text.substring(text.indexOf("\r\n\r\n") + 4);
        }
    }
}
