// What the sample in Kotlin needs of Android and LiteRT, as far as the compiler looks: nothing here runs.
package android.content.res

class AssetManager {
    fun open(name: String): java.io.InputStream = TODO(name)
}
