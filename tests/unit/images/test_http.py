import subprocess
import sys


def test_the_client_reads_more_than_it_would_and_its_command_line_stays_out() -> None:
    code = """if True:
        import httpcore._async.http11 as http11
        assert http11.AsyncHTTP11Connection.READ_NUM_BYTES == 65536, "it means something else now"
        from shim.images.http import httpx
        assert http11.AsyncHTTP11Connection.READ_NUM_BYTES == 1 << 20
        import sys
        assert httpx.AsyncClient and "rich" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], check=True)
